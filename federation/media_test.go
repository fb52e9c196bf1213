package federation

import (
	"bytes"
	"io"
	"testing"
	"unicode/utf8"
)

func FuzzFilePart(f *testing.F) {
	good := "--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\nContent-Type: text/plain\r\nContent-Disposition: attachment; filename*=utf-8''%C3%A9\r\n\r\nfile\r\n--b--\r\n"
	f.Add("multipart/mixed; boundary=b", []byte(good))
	f.Add("multipart/mixed; boundary=b", []byte("--b\r\n\r\n--b\r\nLocation: https://x/\r\n\r\n"))
	f.Add("multipart/mixed; boundary=\"b c\"", []byte("preamble\r\n--b c\r\n\r\n"))
	f.Add("text/plain", []byte("x"))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		part, err := filePart(contentType, bytes.NewReader(body))
		if err != nil {
			return
		}
		if kind, name := described(part.Header); !utf8.ValidString(name) || len(name) > maxFileName || len(kind) > maxFileName || kind == "" {
			t.Errorf("type %q, name %q", kind, name)
		}
		if n, _ := io.Copy(io.Discard, part); n > int64(len(body)) {
			t.Errorf("%d bytes of %d", n, len(body))
		}
	})
}
