package media

import (
	"io"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// Bounds of what is read of a page.
const (
	maxTokens     = 200_000
	maxToken      = 256 << 10
	maxProperties = 60
	maxValue      = 1000
	maxTitle      = 300
	maxText       = 500
)

// page is what a page says of itself.
type page struct {
	// properties by name, og: and others; the first of each name counts.
	properties map[string]string
	title      string
	heading    string
	// text of the body, as far as it is wanted.
	text strings.Builder
	// images are the addresses of pictures in the body, in their order; icon is what stands for the site.
	images []string
	icon   string
	base   string
}

// silent are the elements whose text is not the page's own.
var silent = map[atom.Atom]bool{
	atom.Script: true, atom.Style: true, atom.Noscript: true, atom.Template: true, atom.Svg: true, atom.Nav: true, atom.Header: true,
	atom.Footer: true, atom.Aside: true, atom.Iframe: true, atom.Select: true, atom.Button: true, atom.Form: true, atom.Canvas: true,
	atom.Video: true, atom.Audio: true, atom.Object: true, atom.Head: true, atom.Textarea: true, atom.Math: true, atom.Picture: false,
}

// reader walks a page's tokens. It builds no tree: how deep a page nests is of no consequence.
type reader struct {
	page
	tokens *html.Tokenizer
	// hush counts open silent elements by name; text counts for nothing within one.
	hush map[atom.Atom]int
	deep int
	in   atom.Atom // title or heading whose text is being read
	into *strings.Builder
}

// readPage reads what a page says of itself, up to our bounds. It never fails: strangers' pages are what they are.
func readPage(content io.Reader) *page {
	r := &reader{page: page{properties: map[string]string{}}, tokens: html.NewTokenizer(content), hush: map[atom.Atom]int{}}
	r.tokens.SetMaxBuf(maxToken)
	for range maxTokens {
		switch r.tokens.Next() {
		case html.ErrorToken:
			r.close()
			return &r.page
		case html.StartTagToken, html.SelfClosingTagToken:
			r.open()
		case html.EndTagToken:
			name, _ := r.tokens.TagName()
			r.end(atom.Lookup(name))
		case html.TextToken:
			r.words()
		}
	}
	r.close()
	return &r.page
}

func (r *reader) open() {
	name, more := r.tokens.TagName()
	tag := atom.Lookup(name)
	attributes := map[string]string{}
	for n := 0; more && n < 50; n++ {
		var key, value []byte
		key, value, more = r.tokens.TagAttr()
		if _, seen := attributes[string(key)]; !seen {
			attributes[string(key)] = clean(string(value), maxURL)
		}
	}
	switch {
	case tag == atom.Body:
		clear(r.hush) // whoever forgot to close the head
		r.deep = 0
	case silent[tag]:
		r.hush[tag]++
		r.deep++
	}
	switch tag {
	case atom.Meta:
		r.meta(attributes)
	case atom.Link:
		r.link(attributes)
	case atom.Base:
		if r.base == "" {
			r.base = attributes["href"]
		}
	case atom.Title, atom.H1, atom.H2:
		if r.in == 0 && (tag == atom.Title && r.title == "" && r.hush[atom.Svg] == 0 || tag != atom.Title && r.heading == "" && r.deep == 0) {
			r.in, r.into = tag, &strings.Builder{}
		}
	case atom.Img:
		r.image(attributes)
	case atom.P, atom.Br, atom.Div, atom.Li, atom.Td, atom.Section, atom.Article, atom.H3:
		r.space()
	}
}

func (r *reader) end(tag atom.Atom) {
	if silent[tag] && r.hush[tag] > 0 {
		r.hush[tag]--
		r.deep--
	}
	if tag == r.in && tag != 0 {
		r.close()
	}
}

// close ends a title or heading.
func (r *reader) close() {
	if r.in == 0 {
		return
	}
	if r.in == atom.Title {
		r.title = clean(r.into.String(), maxTitle)
	} else {
		r.heading = clean(r.into.String(), maxTitle)
	}
	r.in, r.into = 0, nil
}

func (r *reader) words() {
	text := r.tokens.Text()
	if r.into != nil && r.into.Len() < 4*maxTitle {
		r.into.Write(text[:min(len(text), 4*maxTitle)])
	}
	// Twice of what is wanted, since blanks go.
	if r.deep == 0 && r.in == 0 && r.text.Len() < 4*maxText {
		r.text.Write(text[:min(len(text), 4*maxText)])
	}
}

func (r *reader) space() {
	if r.deep == 0 && r.in == 0 && r.text.Len() < 4*maxText {
		r.text.WriteByte(' ')
	}
}

func (r *reader) meta(attributes map[string]string) {
	value := clean(attributes["content"], maxValue)
	for _, key := range []string{"property", "name", "itemprop"} {
		name := strings.ToLower(strings.TrimSpace(attributes[key]))
		if name == "" || value == "" || len(name) > 100 || len(r.properties) >= maxProperties {
			continue
		}
		if key == "itemprop" {
			name = "itemprop:" + name
		}
		if _, seen := r.properties[name]; !seen {
			r.properties[name] = value
		}
	}
}

func (r *reader) link(attributes map[string]string) {
	for _, rel := range strings.Fields(strings.ToLower(attributes["rel"])) {
		switch rel {
		case "image_src":
			if _, seen := r.properties["image_src"]; !seen && len(r.properties) < maxProperties {
				r.properties["image_src"] = attributes["href"]
			}
		case "apple-touch-icon":
			r.icon = attributes["href"]
		case "icon":
			if r.icon == "" {
				r.icon = attributes["href"]
			}
		}
	}
}

func (r *reader) image(attributes map[string]string) {
	source := strings.TrimSpace(attributes["src"])
	if source == "" || strings.HasPrefix(strings.ToLower(source), "data:") || r.hush[atom.Noscript] > 0 || len(r.images) >= 1 {
		return
	}
	for _, side := range []string{"width", "height"} {
		if n, err := strconv.Atoi(strings.TrimSuffix(attributes[side], "px")); err == nil && n <= 16 {
			return // what counts visitors, and what is between things
		}
	}
	r.images = append(r.images, source)
}

// shown are the prefixes of properties that are handed on.
var shown = []string{"og:", "article:", "profile:", "book:", "music:", "video:"}

// graph gives what the page says of itself in OpenGraph's words: its own, else what stands for them elsewhere. The picture is
// left out.
func (p *page) graph() map[string]string {
	found := map[string]string{}
	for name, value := range p.properties {
		for _, prefix := range shown {
			if strings.HasPrefix(name, prefix) && name != "og:image" && !strings.HasPrefix(name, "og:image:") {
				found[name] = value
			}
		}
	}
	for name, others := range map[string][]string{
		"og:title":       {p.properties["twitter:title"], p.properties["itemprop:name"], p.title, p.heading},
		"og:description": {p.properties["twitter:description"], p.properties["description"], p.properties["itemprop:description"], clean(p.text.String(), maxText)},
		"og:site_name":   {p.properties["application-name"]},
	} {
		for _, other := range others {
			if found[name] == "" && other != "" {
				found[name] = other
			}
		}
	}
	if title := found["og:title"]; title != "" {
		found["og:title"] = clean(title, maxTitle)
	}
	if description := found["og:description"]; description != "" {
		found["og:description"] = clean(description, maxText)
	}
	return found
}

// picture is the address of the page's picture; empty if it has none of the web.
func (p *page) picture(at *url.URL) string {
	base := at
	if b, err := at.Parse(p.base); p.base != "" && err == nil {
		base = b
	}
	candidates := []string{
		p.properties["og:image:secure_url"], p.properties["og:image"], p.properties["og:image:url"], p.properties["twitter:image"],
		p.properties["twitter:image:src"], p.properties["itemprop:image"], p.properties["image_src"],
	}
	candidates = append(append(candidates, p.images...), p.icon)
	for _, c := range candidates {
		c = strings.TrimSpace(c)
		if c == "" {
			continue
		}
		link, err := base.Parse(c)
		if err == nil && link.Hostname() != "" && (link.Scheme == "https" || link.Scheme == "http") && len(link.String()) <= maxURL {
			link.Fragment, link.User = "", nil
			return link.String()
		}
	}
	return ""
}

// clean makes one line of a text, without controls, and cuts it at a word if it is longer than that many bytes.
func clean(text string, most int) string {
	text = strings.ToValidUTF8(text, "")
	text = strings.Map(func(c rune) rune {
		if unprintable(c) && !unicode.IsSpace(c) || c == utf8.RuneError {
			return -1
		}
		return c
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= most {
		return text
	}
	cut := strings.ToValidUTF8(text[:most], "")
	if at := strings.LastIndexByte(cut, ' '); at > most/2 {
		cut = cut[:at]
	}
	return strings.TrimSpace(cut) + "…"
}
