package account

// ssoTexts are the words of the pages of sign-in with identity providers: in English, French, Dutch and German, as
// mail.Languages has them. {provider}, {place} and {user} are filled in.
var ssoTexts = map[string][4]string{
	"choose.title": {"Sign in", "Se connecter", "Inloggen", "Anmelden"},
	"choose.text": {
		"How would you like to sign in?", "Comment souhaitez-vous vous connecter ?",
		"Hoe wilt u inloggen?", "Wie möchten Sie sich anmelden?",
	},

	"continue.title": {"Continue to {place}?", "Continuer vers {place} ?", "Doorgaan naar {place}?", "Weiter zu {place}?"},
	"continue.text": {
		"You are signed in as {user}. The app at {place} will be able to read and write messages in your name.",
		"Vous êtes connecté en tant que {user}. L’application à l’adresse {place} pourra lire et écrire des messages en votre nom.",
		"U bent ingelogd als {user}. De app op {place} kan dan uit uw naam berichten lezen en schrijven.",
		"Sie sind als {user} angemeldet. Die Anwendung unter {place} kann dann in Ihrem Namen Nachrichten lesen und schreiben.",
	},
	"continue.button": {"Continue", "Continuer", "Doorgaan", "Weiter"},
	"continue.note": {
		"If you do not know this address, close this page.", "Si vous ne connaissez pas cette adresse, fermez cette page.",
		"Kent u dit adres niet? Sluit dan deze pagina.", "Wenn Sie diese Adresse nicht kennen, schließen Sie diese Seite.",
	},

	"confirm.title": {"Is this you?", "Est-ce bien vous ?", "Bent u dit?", "Sind Sie das?"},
	"confirm.deactivate": {
		"An app wants to close the account {user} for ever.", "Une application veut fermer définitivement le compte {user}.",
		"Een app wil het account {user} voorgoed sluiten.", "Eine Anwendung möchte das Konto {user} für immer schließen.",
	},
	"confirm.password": {
		"An app wants to change the password of {user}.", "Une application veut changer le mot de passe de {user}.",
		"Een app wil het wachtwoord van {user} wijzigen.", "Eine Anwendung möchte das Passwort von {user} ändern.",
	},
	"confirm.devices": {
		"An app wants to sign out a device of {user}.", "Une application veut déconnecter un appareil de {user}.",
		"Een app wil een apparaat van {user} uitloggen.", "Eine Anwendung möchte ein Gerät von {user} abmelden.",
	},
	"confirm.keys": {
		"An app wants to replace the keys by which others recognise {user}.", "Une application veut remplacer les clés par lesquelles les autres reconnaissent {user}.",
		"Een app wil de sleutels vervangen waaraan anderen {user} herkennen.", "Eine Anwendung möchte die Schlüssel ersetzen, an denen andere {user} erkennen.",
	},
	"confirm.session": {
		"An app wants to sign in another device as {user}.", "Une application veut connecter un autre appareil en tant que {user}.",
		"Een app wil een ander apparaat inloggen als {user}.", "Eine Anwendung möchte ein weiteres Gerät als {user} anmelden.",
	},
	"confirm.address": {
		"An app wants to add an address to the account {user}.", "Une application veut ajouter une adresse au compte {user}.",
		"Een app wil een adres toevoegen aan het account {user}.", "Eine Anwendung möchte dem Konto {user} eine Adresse hinzufügen.",
	},
	"confirm.something": {
		"An app wants to change something in the account {user}.", "Une application veut modifier quelque chose dans le compte {user}.",
		"Een app wil iets wijzigen in het account {user}.", "Eine Anwendung möchte am Konto {user} etwas ändern.",
	},
	"confirm.button": {"Confirm with {provider}", "Confirmer avec {provider}", "Bevestigen met {provider}", "Mit {provider} bestätigen"},
	"confirm.note": {
		"You will sign in once more. If you did not expect this, close this page: somebody else may be using your account.",
		"Vous devrez vous connecter à nouveau. Si vous ne vous attendiez pas à cela, fermez cette page : quelqu’un d’autre utilise peut-être votre compte.",
		"U logt nog een keer in. Had u dit niet verwacht? Sluit dan deze pagina: misschien gebruikt iemand anders uw account.",
		"Sie melden sich noch einmal an. Wenn Sie dies nicht erwartet haben, schließen Sie diese Seite: Vielleicht benutzt jemand anderes Ihr Konto.",
	},

	"welcome.title":  {"Welcome", "Bienvenue", "Welkom", "Willkommen"},
	"welcome.text":   {"Your account will be made now. Please read:", "Votre compte va être créé. Veuillez lire :", "Uw account wordt nu aangemaakt. Lees eerst:", "Ihr Konto wird jetzt angelegt. Bitte lesen Sie:"},
	"welcome.button": {"Accept and continue", "Accepter et continuer", "Akkoord en doorgaan", "Annehmen und weiter"},

	"terms.title":  {"Terms of use", "Conditions d’utilisation", "Gebruiksvoorwaarden", "Nutzungsbedingungen"},
	"terms.text":   {"Please read:", "Veuillez lire :", "Lees het volgende:", "Bitte lesen Sie:"},
	"terms.button": {"Accept", "Accepter", "Akkoord", "Annehmen"},

	"passed.title": {"Confirmed", "C’est confirmé", "Bevestigd", "Bestätigt"},
	"passed.text": {
		"You can close this page and go back to your app.", "Vous pouvez fermer cette page et revenir à votre application.",
		"U kunt deze pagina sluiten en teruggaan naar uw app.", "Sie können diese Seite schließen und zu Ihrer Anwendung zurückkehren.",
	},

	"leave.title": {"Sign out?", "Se déconnecter ?", "Uitloggen?", "Abmelden?"},
	"leave.text": {
		"You are signed in with {provider} as {user}. Every app that you opened from this sign-in will be signed out, and {provider} too.",
		"Vous êtes connecté avec {provider} en tant que {user}. Toutes les applications ouvertes avec cette connexion seront déconnectées, ainsi que {provider}.",
		"U bent met {provider} ingelogd als {user}. Elke app die u met deze aanmelding hebt geopend wordt uitgelogd, en {provider} ook.",
		"Sie sind mit {provider} als {user} angemeldet. Jede Anwendung, die Sie mit dieser Anmeldung geöffnet haben, wird abgemeldet, und {provider} ebenso.",
	},
	"leave.button": {"Sign out", "Se déconnecter", "Uitloggen", "Abmelden"},
	"left.title":   {"Signed out", "Vous êtes déconnecté", "Uitgelogd", "Abgemeldet"},
	"left.text":    {"You can close this page.", "Vous pouvez fermer cette page.", "U kunt deze pagina sluiten.", "Sie können diese Seite schließen."},

	"refused.title": {"You could not be signed in", "Connexion impossible", "Inloggen is niet gelukt", "Die Anmeldung ist nicht gelungen"},
	"refused.other": {
		"Something went wrong. Please try again.", "Une erreur s’est produite. Veuillez réessayer.",
		"Er ging iets mis. Probeer het opnieuw.", "Etwas ist schiefgegangen. Bitte versuchen Sie es noch einmal.",
	},
	"refused.unknown_provider": {
		"This server does not know that way to sign in.", "Ce serveur ne connaît pas ce mode de connexion.",
		"Deze server kent deze manier van inloggen niet.", "Dieser Server kennt diesen Anmeldeweg nicht.",
	},
	"refused.state": {
		"This page was already used, is too old, or belongs to another browser. Start again in your app.",
		"Cette page a déjà été utilisée, est trop ancienne ou appartient à un autre navigateur. Recommencez depuis votre application.",
		"Deze pagina is al gebruikt, te oud, of hoort bij een andere browser. Begin opnieuw in uw app.",
		"Diese Seite wurde schon benutzt, ist zu alt oder gehört zu einem anderen Browser. Beginnen Sie in Ihrer Anwendung von vorn.",
	},
	"refused.denied": {
		"{provider} did not let you in, or you stopped. Start again in your app.", "{provider} ne vous a pas autorisé, ou vous avez annulé. Recommencez depuis votre application.",
		"{provider} liet u niet toe, of u bent gestopt. Begin opnieuw in uw app.", "{provider} hat Sie nicht eingelassen, oder Sie haben abgebrochen. Beginnen Sie in Ihrer Anwendung von vorn.",
	},
	"refused.provider": {
		"{provider} cannot be reached now, or its answer is not right. Try again later.", "{provider} est injoignable pour le moment, ou sa réponse n’est pas valable. Réessayez plus tard.",
		"{provider} is nu niet bereikbaar, of het antwoord klopt niet. Probeer het later opnieuw.", "{provider} ist gerade nicht erreichbar, oder die Antwort stimmt nicht. Versuchen Sie es später noch einmal.",
	},
	"refused.claims": {
		"{provider} does not say what this server needs to know of you. Ask your administrator.", "{provider} ne transmet pas les informations dont ce serveur a besoin. Adressez-vous à votre administrateur.",
		"{provider} vertelt niet wat deze server van u moet weten. Vraag uw beheerder om hulp.", "{provider} sagt nicht, was dieser Server von Ihnen wissen muss. Wenden Sie sich an Ihre Verwaltung.",
	},
	"refused.email": {
		"{provider} names no confirmed e-mail address of yours. Confirm it there, and try again.", "{provider} ne transmet aucune adresse e-mail confirmée. Confirmez-la là-bas, puis réessayez.",
		"{provider} noemt geen bevestigd e-mailadres van u. Bevestig het daar en probeer het opnieuw.", "{provider} nennt keine bestätigte E-Mail-Adresse von Ihnen. Bestätigen Sie sie dort, und versuchen Sie es noch einmal.",
	},
	"refused.domain": {
		"People with your e-mail address do not have their account on this server.", "Les personnes ayant votre adresse e-mail n’ont pas leur compte sur ce serveur.",
		"Mensen met uw e-mailadres hebben hun account niet op deze server.", "Menschen mit Ihrer E-Mail-Adresse haben ihr Konto nicht auf diesem Server.",
	},
	"refused.closed": {
		"You have no account on this server. Ask your administrator.", "Vous n’avez pas de compte sur ce serveur. Adressez-vous à votre administrateur.",
		"U hebt geen account op deze server. Vraag uw beheerder om hulp.", "Sie haben kein Konto auf diesem Server. Wenden Sie sich an Ihre Verwaltung.",
	},
	"refused.name_taken": {
		"There is an account of your name with another e-mail address. Ask your administrator.", "Un compte à votre nom existe avec une autre adresse e-mail. Adressez-vous à votre administrateur.",
		"Er is al een account op uw naam met een ander e-mailadres. Vraag uw beheerder om hulp.", "Es gibt ein Konto Ihres Namens mit einer anderen E-Mail-Adresse. Wenden Sie sich an Ihre Verwaltung.",
	},
	"refused.linked": {
		"Your account belongs to somebody else at {provider}. Ask your administrator.", "Votre compte est lié à une autre identité chez {provider}. Adressez-vous à votre administrateur.",
		"Uw account is bij {provider} aan iemand anders gekoppeld. Vraag uw beheerder om hulp.", "Ihr Konto gehört bei {provider} jemand anderem. Wenden Sie sich an Ihre Verwaltung.",
	},
	"refused.deactivated": {
		"Your account was closed. Ask your administrator.", "Votre compte a été fermé. Adressez-vous à votre administrateur.",
		"Uw account is gesloten. Vraag uw beheerder om hulp.", "Ihr Konto wurde geschlossen. Wenden Sie sich an Ihre Verwaltung.",
	},
	"refused.locked": {
		"Your account is locked. Ask your administrator.", "Votre compte est verrouillé. Adressez-vous à votre administrateur.",
		"Uw account is vergrendeld. Vraag uw beheerder om hulp.", "Ihr Konto ist gesperrt. Wenden Sie sich an Ihre Verwaltung.",
	},
	"refused.other_user": {
		"You signed in as somebody else than the account is. Nothing was confirmed.", "Vous vous êtes connecté avec une autre identité que celle du compte. Rien n’a été confirmé.",
		"U hebt zich als iemand anders aangemeld dan van wie het account is. Er is niets bevestigd.", "Sie haben sich als jemand anderes angemeldet, als das Konto gehört. Es wurde nichts bestätigt.",
	},
	"refused.logout": {
		"This sign-out is not complete.", "Cette déconnexion est incomplète.", "Deze afmelding is niet volledig.", "Diese Abmeldung ist nicht vollständig.",
	},
}
