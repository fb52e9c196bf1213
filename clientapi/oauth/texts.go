package oauth

import (
	"embed"
	"encoding/json"

	"chancery/clientapi/mail"
)

//go:embed texts/*.json
var textFiles embed.FS

// languages are those of the pages, the same as those of the mails. The first is what all else falls back to.
var languages = mail.Languages

// catalogue holds the pages' texts by language and name.
type catalogue map[string]map[string]string

// texts reads them. That each language has each text is held by a test.
func texts() catalogue {
	all := catalogue{}
	for _, lang := range languages {
		raw, err := textFiles.ReadFile("texts/" + lang + ".json")
		if err != nil { // they are in the binary
			panic(err)
		}
		texts := map[string]string{}
		if err := json.Unmarshal(raw, &texts); err != nil {
			panic("oauth: texts/" + lang + ".json: " + err.Error())
		}
		all[lang] = texts
	}
	return all
}
