package mail

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	html "html/template"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

//go:embed templates/*
var ours embed.FS

// Data is what templates may show.
type Data struct {
	// App is the name of the service; the mailer fills it in.
	App string
	// Name is the reader's name, where it is known.
	Name string
	// User is the account that the mail is about.
	User string
	// Link is where the button leads; empty: no button.
	Link string
	// Code is what is to be typed into the client, where there is no link.
	Code string
	// Until is the day on which the account expires, as 2027-01-31, and Days is how many days are left; 0: it has expired.
	Until string
	Days  int
	// Rooms are those in which something was missed, and Count is how many messages there are in all.
	Rooms []Room
	Count int
}

// Room is a room, or a thread of it, in which the reader missed something.
type Room struct {
	Name string
	Link string
	// Lines are the newest messages, and More is how many there are besides.
	Lines []Line
	More  int
	// Direct: the room is for two, and its name is the other's.
	Direct bool
}

// Line is one message, as far as it may be shown. Kind is text, or what to say instead of it: encrypted, image, video,
// audio, file, other, invite.
type Line struct {
	Sender string
	Time   string
	Kind   string
	Text   string
}

// texts are the parsed templates: of each language a set of definitions in plain text, and the two layouts.
type texts struct {
	words map[string]*template.Template
	text  *template.Template
	html  *html.Template
}

// maxTemplate bounds an operator's file.
const maxTemplate = 1 << 20

// loadTexts parses ours, and over them what lies in the folder, if there is one.
func loadTexts(folder string) (*texts, error) {
	t := &texts{words: map[string]*template.Template{}}
	for _, lang := range Languages {
		set := template.New(lang)
		for _, raw := range sources(folder, lang+".tmpl") {
			if raw.err == nil {
				_, raw.err = set.Parse(raw.text)
			}
			if raw.err != nil {
				return nil, fmt.Errorf("mail.templates: %s.tmpl: %w", lang, raw.err)
			}
		}
		t.words[lang] = set
	}
	var err error
	for _, raw := range sources(folder, "layout.txt") {
		if err = raw.err; err == nil {
			t.text, err = template.New("layout.txt").Parse(raw.text)
		}
		if err != nil {
			return nil, fmt.Errorf("mail.templates: layout.txt: %w", err)
		}
	}
	for _, raw := range sources(folder, "layout.html") {
		if err = raw.err; err == nil {
			t.html, err = html.New("layout.html").Parse(raw.text)
		}
		if err != nil {
			return nil, fmt.Errorf("mail.templates: layout.html: %w", err)
		}
	}
	return t, nil
}

type source struct {
	text string
	err  error
}

// sources are ours, and then the operator's, of one file.
func sources(folder, name string) []source {
	raw, err := ours.ReadFile("templates/" + name)
	list := []source{{string(raw), err}}
	if folder == "" {
		return list
	}
	path := filepath.Join(folder, name)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return list
	}
	if err == nil && info.Size() > maxTemplate {
		err = errors.New("the file is larger than a megabyte")
	}
	if err != nil {
		return append(list, source{err: err})
	}
	raw, err = os.ReadFile(path)
	return append(list, source{string(raw), err})
}

// page is what the layouts show.
type page struct {
	Lang, Subject string
	Paragraphs    []string
	Button, Link  string
	Rooms         []shownRoom
	Footer        []string
	// Unsubscribe is the text of the link UnsubscribeLink.
	Unsubscribe, UnsubscribeLink string
}

type shownRoom struct {
	Name, Link string
	Lines      []shownLine
	More       string
}

type shownLine struct{ Sender, Time, Text string }

// render gives the three parts of a mail.
func (t *texts) render(lang string, msg Message) (subject, text, markup string, err error) {
	w := words{set: t.words[lang], data: msg.Data}
	p := page{Lang: lang, Subject: w.say(msg.Template + ".subject"), Paragraphs: w.paragraphs(msg.Template + ".text")}
	if msg.Data.Link != "" {
		p.Button, p.Link = w.say(msg.Template+".button"), msg.Data.Link
	}
	for _, room := range msg.Data.Rooms {
		p.Rooms = append(p.Rooms, w.room(room))
	}
	p.Footer = w.paragraphs("footer")
	if msg.Unsubscribe != "" {
		p.Unsubscribe, p.UnsubscribeLink = w.say("unsubscribe"), msg.Unsubscribe
	}
	if w.err != nil {
		return "", "", "", w.err
	}
	// A room's name is part of the subject, and may hold anything.
	p.Subject = clean(p.Subject)
	var plain, rich bytes.Buffer
	if err := errors.Join(t.text.Execute(&plain, p), t.html.Execute(&rich, p)); err != nil {
		return "", "", "", err
	}
	return p.Subject, plain.String(), rich.String(), nil
}

// clean makes text fit for a header: one line, of bearable length.
func clean(text string) string {
	runes := []rune(strings.Map(func(c rune) rune {
		if oneLine(string(c)) != nil {
			return ' '
		}
		return c
	}, text))
	if len(runes) > 200 {
		runes = append(runes[:199], '…')
	}
	return strings.TrimSpace(string(runes))
}

// words says what a language's definitions make of the data. The first error stays.
type words struct {
	set  *template.Template
	data Data
	err  error
}

func (w *words) say(name string) string { return w.with(name, w.data) }

func (w *words) with(name string, data any) string {
	var out strings.Builder
	if err := w.set.ExecuteTemplate(&out, name, data); err != nil && w.err == nil {
		w.err = err
	}
	return strings.TrimSpace(out.String())
}

// paragraphs are parted by empty lines; line breaks within one are blanks.
func (w *words) paragraphs(name string) []string {
	var list []string
	for part := range strings.SplitSeq(w.say(name), "\n\n") {
		if part = strings.Join(strings.Fields(part), " "); part != "" {
			list = append(list, part)
		}
	}
	return list
}

func (w *words) room(room Room) shownRoom {
	shown := shownRoom{Name: room.Name, Link: room.Link}
	for _, line := range room.Lines {
		text := line.Text
		if line.Kind != "text" {
			text = w.with("line."+line.Kind, line)
		}
		shown.Lines = append(shown.Lines, shownLine{line.Sender, line.Time, text})
	}
	if room.More > 0 {
		shown.More = w.with("more", room)
	}
	return shown
}
