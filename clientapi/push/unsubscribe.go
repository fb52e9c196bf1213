package push

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
	"strings"

	"maunium.net/go/mautrix/id"

	"chancery/clientapi/mail"
	"chancery/clientapi/rest"
	"chancery/storage"
)

// UnsubscribePath is where the links in mails about missed messages lead: Synapse's path.
const UnsubscribePath = "/_synapse/client/unsubscribe"

// unsubscribeLink lets whoever has the mail end this pusher, and do nothing else. It holds no token of a session, and is
// good as long as the pusher is there.
func (h *Handlers) unsubscribeLink(ctx context.Context, p *storage.Pusher) (string, error) {
	mac, err := h.unsubscribeMAC(ctx, p.UserID, p.AppID, p.PushKey)
	return h.cfg.PublicURL + UnsubscribePath + "?" + url.Values{
		"user_id": {string(p.UserID)}, "app_id": {p.AppID}, "pushkey": {p.PushKey}, "mac": {base64.RawURLEncoding.EncodeToString(mac)},
	}.Encode(), err
}

func (h *Handlers) unsubscribeMAC(ctx context.Context, user id.UserID, appID, pushKey string) ([]byte, error) {
	secret, err := h.store.Secrets.Shared(ctx, "unsubscribe")
	if err != nil {
		return nil, err
	}
	sum := hmac.New(sha256.New, []byte(secret))
	sum.Write([]byte(strings.Join([]string{string(user), appID, pushKey}, "\x00")))
	return sum.Sum(nil), nil
}

// UnsubscribePage handles GET /_synapse/client/unsubscribe. It ends nothing yet: programs that look at links in mails
// would otherwise.
func (h *Handlers) UnsubscribePage(r *rest.Request) (any, error) {
	good, err := h.unsubscribing(r)
	if err != nil {
		return nil, err
	}
	if !good {
		return unsubscribePage(r, http.StatusBadRequest, "stale")
	}
	return unsubscribePage(r, http.StatusOK, "ask")
}

// Unsubscribe handles POST /_synapse/client/unsubscribe: the button of that page, or a mail program's own (RFC 8058).
func (h *Handlers) Unsubscribe(r *rest.Request) (any, error) {
	good, err := h.unsubscribing(r)
	if err != nil {
		return nil, err
	}
	if !good {
		return unsubscribePage(r, http.StatusBadRequest, "stale")
	}
	err = h.store.Do(r.Context(), func(ctx context.Context) error {
		return h.store.Pushers.Delete(ctx, id.UserID(r.Query("user_id")), r.Query("app_id"), r.Query("pushkey"))
	})
	if err != nil {
		return nil, err
	}
	return unsubscribePage(r, http.StatusOK, "done")
}

// unsubscribing says whether the link is one of ours. Others are counted.
func (h *Handlers) unsubscribing(r *rest.Request) (bool, error) {
	if err := r.Limits.Take(rest.LimitFailedAddress, r.Address()); err != nil {
		return false, err
	}
	want, err := h.unsubscribeMAC(r.Context(), id.UserID(r.Query("user_id")), r.Query("app_id"), r.Query("pushkey"))
	if err != nil {
		return false, err
	}
	given, err := base64.RawURLEncoding.DecodeString(r.Query("mac"))
	if err != nil || !hmac.Equal(given, want) {
		return false, nil
	}
	r.Limits.Return(rest.LimitFailedAddress, r.Address())
	return true, nil
}

// unsubscribeTexts are title, text and button of the page, by language and by what it shows.
var unsubscribeTexts = map[string]map[string][3]string{
	"en": {
		"ask":   {"E-mails about missed messages", "Shall we stop sending you e-mails about messages that you missed?", "Yes, stop them"},
		"done":  {"Done", "You get no more e-mails about missed messages. You can turn them on again in the settings of your app.", ""},
		"stale": {"This link is not good", "Please use the link of a recent e-mail, or the settings of your app.", ""},
	},
	"fr": {
		"ask":   {"E-mails sur les messages manqués", "Voulez-vous ne plus recevoir d’e-mails sur les messages que vous avez manqués ?", "Oui, ne plus les envoyer"},
		"done":  {"C’est fait", "Vous ne recevrez plus d’e-mails sur les messages manqués. Vous pouvez les réactiver dans les paramètres de votre application.", ""},
		"stale": {"Ce lien n’est pas valable", "Utilisez le lien d’un e-mail récent ou les paramètres de votre application.", ""},
	},
	"nl": {
		"ask":   {"E-mails over gemiste berichten", "Wilt u geen e-mails meer ontvangen over berichten die u hebt gemist?", "Ja, stop ermee"},
		"done":  {"Gelukt", "U ontvangt geen e-mails meer over gemiste berichten. In de instellingen van uw app kunt u ze weer aanzetten.", ""},
		"stale": {"Deze link is niet geldig", "Gebruik de link van een recente e-mail of de instellingen van uw app.", ""},
	},
	"de": {
		"ask":   {"E-Mails über verpasste Nachrichten", "Sollen wir Ihnen keine E-Mails über verpasste Nachrichten mehr senden?", "Ja, keine mehr senden"},
		"done":  {"Erledigt", "Sie erhalten keine E-Mails über verpasste Nachrichten mehr. In den Einstellungen Ihrer Anwendung können Sie sie wieder einschalten.", ""},
		"stale": {"Dieser Link gilt nicht", "Bitte verwenden Sie den Link einer neueren E-Mail oder die Einstellungen Ihrer Anwendung.", ""},
	},
}

var unsubscribeForm = template.Must(template.New("unsubscribe").Parse(
	`<h1>{{.Title}}</h1><p>{{.Text}}</p>{{if .Button}}<form method="post"><button type="submit">{{.Button}}</button></form>{{end}}`))

func unsubscribePage(r *rest.Request, code int, what string) (any, error) {
	lang := mail.Language(r.HTTP.Header.Get("Accept-Language"), "en")
	text := unsubscribeTexts[lang][what]
	var body strings.Builder
	err := unsubscribeForm.Execute(&body, struct{ Title, Text, Button string }{text[0], text[1], text[2]})
	return rest.Page(code, lang, text[0], template.HTML(body.String())), err //nolint:gosec // it was made by a template just now
}
