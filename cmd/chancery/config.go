package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/rs/zerolog"
	"go.yaml.in/yaml/v3"

	"chancery/calls"
	"chancery/clientapi"
	"chancery/federation"
	"chancery/roomserver"
	"chancery/storage"
	"chancery/storage/bus"
)

// Config is the whole configuration: a few keys of the house, and the component's own settings under its name.
// config.sample.yaml describes every key; a test keeps the two equal.
type Config struct {
	// ServerName is the part of user IDs behind the colon. It can never be changed. No default.
	ServerName string `yaml:"server_name"`
	// Data is the folder for all that is kept on disk. Default: data.
	Data string `yaml:"data"`

	// SigningKey is the file with the keys that sign this server's events and requests, in the data folder if the path
	// is relative. A server that has none yet makes one. Keep a copy: who has it speaks for the server, and who has
	// lost it is no longer believed. Default: signing.key.
	SigningKey string `yaml:"signing_key"`

	// Media is the folder for media files, in the data folder if the path is relative. Processes that share the work
	// share it too. Default: media.
	Media string `yaml:"media"`

	Listen Listen `yaml:"listen"`
	Log    Log    `yaml:"log"`
	// Storage says where the database lies. PostgreSQL where more than one process shall serve.
	Storage storage.Config `yaml:"storage"`
	// Bus links the components. Nothing needs to be set while all run in one process.
	Bus bus.Config `yaml:"bus"`
	// Rooms is the room server, the only writer of rooms.
	Rooms roomserver.Config `yaml:"rooms"`
	// Client is the door for clients.
	Client clientapi.Config `yaml:"client"`
	// Federation is the door for other servers, and the mouth to them.
	Federation federation.Config `yaml:"federation"`
	// Calls is the call focus, where the media of calls meet.
	Calls calls.Config `yaml:"calls"`
}

// Listen says where the doors are.
type Listen struct {
	// Client is the address of the client API and the calls' signalling, plain HTTP behind a reverse proxy.
	// Default: 127.0.0.1:8008.
	Client string `yaml:"client"`
	// Secure is the address of an HTTPS listener for clients, with Certificate and Key: what Client serves, and TURN over TLS
	// beside it, so that calls work where nothing but port 443 is let out. ":443" where no proxy stands before the server.
	// Empty: none. Default empty.
	Secure string `yaml:"secure"`
	// TURNS is the address for TURN over TLS alone, with Certificate and Key: for a proxy that has port 443 and hands over
	// what asks for calls.turn.host, or for port 5349. Empty: none. Default empty.
	TURNS string `yaml:"turns"`
	// Federation is the address of the federation API, HTTPS. Empty: no such listener. Default: :8448.
	Federation string `yaml:"federation"`
	// Admin is the address for metrics, health and pprof. Never to be seen from outside. Empty: none.
	// Default: 127.0.0.1:9008.
	Admin string `yaml:"admin"`
	// Certificate and Key are PEM files for the federation listener, Secure and TURNS, read again when they change. They hold
	// every name under which these are reached.
	// Both empty: the federation listener speaks plain HTTP, behind a proxy that has the certificate.
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
}

// Log says what is written, and how.
type Log struct {
	// Level is trace, debug, info, warn or error. Default: info.
	Level zerolog.Level `yaml:"level"`
	// Format is json, one object per line, or text for eyes. Default: json.
	Format string `yaml:"format"`
}

// DefaultConfig is what holds for keys that the file leaves out.
func DefaultConfig() Config {
	return Config{
		Data:       "data",
		SigningKey: "signing.key",
		Media:      "media",
		Listen:     Listen{Client: "127.0.0.1:8008", Federation: ":8448", Admin: "127.0.0.1:9008"},
		Log:        Log{Level: zerolog.InfoLevel, Format: "json"},
		Storage:    storage.DefaultConfig(),
		Bus:        bus.DefaultConfig(),
		Client:     clientapi.DefaultConfig(),
		Federation: federation.DefaultConfig(),
		Calls:      calls.DefaultConfig(),
		Rooms:      roomserver.DefaultConfig(),
	}
}

// readConfig reads and checks a configuration file.
func readConfig(path string) (Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	config := DefaultConfig()
	if err := decodeConfig(raw, &config); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	if err := config.check(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return config, nil
}

// decodeConfig lays the YAML over what config holds already. Unknown keys are errors. A value written as
// `!file PATH` is the content of that file without its last newline, `!env NAME` the value of that variable.
func decodeConfig(raw []byte, config *Config) error {
	var document yaml.Node
	if err := yaml.Unmarshal(raw, &document); err != nil {
		return err
	}
	replaced, err := resolveSecrets(&document)
	if err != nil {
		return err
	}
	if replaced {
		if raw, err = yaml.Marshal(&document); err != nil {
			return fmt.Errorf("after !file and !env: %w", err)
		}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	decoder.KnownFields(true)
	err = decoder.Decode(config)
	if wrong := new(yaml.TypeError); errors.As(err, &wrong) {
		return plainly(wrong.Errors, replaced)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

var (
	unknownKey = regexp.MustCompile(`field (.+) not found in type \S+`)
	lineNumber = regexp.MustCompile(`^line \d+: `)
)

// plainly says in one line what is wrong with a file. moved: its lines are no longer those of the file.
func plainly(wrong []string, moved bool) error {
	said := make([]string, len(wrong))
	for n, w := range wrong {
		if moved {
			w = lineNumber.ReplaceAllString(w, "")
		}
		said[n] = unknownKey.ReplaceAllString(w, "there is no key $1 here")
	}
	return errors.New(strings.Join(said, "; "))
}

// resolveSecrets replaces the values tagged !file and !env, and says whether there were any.
func resolveSecrets(node *yaml.Node) (replaced bool, err error) {
	if node.Kind == yaml.ScalarNode {
		var value string
		switch node.Tag {
		case "!file":
			content, err := os.ReadFile(node.Value)
			if err != nil {
				return false, fmt.Errorf("line %d: %w", node.Line, err)
			}
			value = strings.TrimRight(string(content), "\r\n")
		case "!env":
			var set bool
			if value, set = os.LookupEnv(node.Value); !set {
				return false, fmt.Errorf("line %d: the environment has no %s", node.Line, node.Value)
			}
		default:
			return false, nil
		}
		// Without a tag the value is read as any other: a number stays a number. What holds a line break
		// or looks like something else by chance must be a string in the file already.
		*node = yaml.Node{Kind: yaml.ScalarNode, Value: value, Line: node.Line, Column: node.Column}
		return true, nil
	}
	for _, child := range node.Content {
		done, err := resolveSecrets(child)
		if err != nil {
			return false, err
		}
		replaced = replaced || done
	}
	return replaced, nil
}

// check names the first thing that cannot work.
func (c *Config) check() error {
	if err := c.Calls.Check(); err != nil {
		return err
	}
	if c.ServerName == "" && !c.Calls.Standalone {
		return errors.New("server_name is missing")
	}
	if c.Log.Format != "json" && c.Log.Format != "text" {
		return fmt.Errorf("log.format %q is neither json nor text", c.Log.Format)
	}
	if (c.Listen.Certificate == "") != (c.Listen.Key == "") {
		return errors.New("listen.certificate and listen.key belong together")
	}
	if c.Listen.Secure+c.Listen.TURNS != "" && c.Listen.Certificate == "" {
		return errors.New("listen.secure and listen.turns need listen.certificate and listen.key")
	}
	return nil
}

// foci are the addresses of the call focus that clients are told.
func (c *Config) foci() []string {
	switch {
	case !c.Calls.Enabled:
		return nil
	case c.Calls.URL != "":
		return []string{c.Calls.URL}
	case c.Client.PublicURL == "":
		return []string{"https://" + c.ServerName + c.Calls.Path}
	}
	return []string{strings.TrimRight(c.Client.PublicURL, "/") + c.Calls.Path}
}

// turnTLSPort is the port that clients are told for TURN over TLS; 0: none.
func (c *Config) turnTLSPort() int {
	if c.Calls.TURN.TLSPort != 0 {
		return c.Calls.TURN.TLSPort
	}
	for _, address := range []string{c.Listen.Secure, c.Listen.TURNS} {
		if _, port, err := net.SplitHostPort(address); err == nil {
			n, err := strconv.Atoi(port)
			if err == nil {
				return n
			}
		}
	}
	return 0
}

// checkParts names what the chosen components need and the configuration lacks: parts of a homeserver meet on an
// external NATS and a PostgreSQL.
func (c *Config) checkParts(chosen parts) error {
	if c.Calls.Standalone {
		if len(chosen) != 1 || !chosen.has("calls") {
			return errors.New("calls.standalone is for serve --only calls: a homeserver's focus obeys its rules")
		}
		return nil
	}
	if len(chosen) == len(allParts) {
		return nil
	}
	if c.Bus.URL == "" {
		return errors.New("serve --only needs bus.url, an external NATS where the processes meet")
	}
	if !c.onPostgres() {
		return errors.New("serve --only needs storage.database to be a PostgreSQL: SQLite is one process")
	}
	return nil
}

// logger makes the process's logger.
func (c *Config) logger(w io.Writer) zerolog.Logger {
	if c.Log.Format == "text" {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: "15:04:05.000", NoColor: !isTerminal(w)}
	}
	return zerolog.New(w).Level(c.Log.Level).With().Timestamp().Logger()
}

// isTerminal says whether a person may be looking.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
