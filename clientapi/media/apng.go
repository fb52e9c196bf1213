package media

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image"
	"image/png"
)

// writeChunk writes a PNG chunk.
func writeChunk(out *bytes.Buffer, kind string, parts ...[]byte) {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	out.Write(binary.BigEndian.AppendUint32(nil, uint32(n)))
	from := out.Len()
	out.WriteString(kind)
	for _, p := range parts {
		out.Write(p)
	}
	sum := crc32.ChecksumIEEE(out.Bytes()[from:])
	out.Write(binary.BigEndian.AppendUint32(nil, sum))
}

// eachChunk walks a PNG's chunks; their sums are the decoder's business.
func eachChunk(raw []byte, see func(kind string, data []byte) error) error {
	raw = raw[min(len(raw), 8):]
	for len(raw) >= 12 {
		n := int64(binary.BigEndian.Uint32(raw))
		if n > int64(len(raw)-12) {
			return errBroken
		}
		if err := see(string(raw[4:8]), raw[8:8+n]); err != nil {
			return err
		}
		raw = raw[12+n:]
	}
	return nil
}

// pngFrames gathers the frames of an animated PNG while its chunks go by.
type pngFrames struct {
	whole header
	draw  func(frame) error
	// head is IHDR, shared what all frames need (palette, transparency).
	head   []byte
	shared bytes.Buffer
	// data of the frame that is under way.
	frame frame
	data  bytes.Buffer
	begun bool
	plays int
}

// framesOfPNG hands the frames of an animated PNG on: each is made a PNG of its own, and decoded.
func framesOfPNG(raw []byte, h header, draw func(frame) error) (plays int, err error) {
	p := &pngFrames{whole: h, draw: draw}
	if err := eachChunk(raw, p.chunk); err != nil {
		return 0, err
	}
	return p.plays, p.end()
}

func (p *pngFrames) chunk(kind string, data []byte) error {
	switch kind {
	case "IHDR":
		if len(data) != 13 || p.head != nil {
			return errBroken
		}
		p.head = bytes.Clone(data)
	case "PLTE", "tRNS", "gAMA", "sRGB", "cHRM", "sBIT":
		writeChunk(&p.shared, kind, data)
	case "acTL":
		if len(data) == 8 {
			p.plays = int(min(binary.BigEndian.Uint32(data[4:]), 1<<16))
		}
	case "fcTL":
		if err := p.end(); err != nil {
			return err
		}
		return p.begin(data)
	case "IDAT":
		if p.begun {
			writeChunk(&p.data, "IDAT", data)
		}
	case "fdAT":
		if len(data) < 4 {
			return errBroken
		}
		if p.begun {
			writeChunk(&p.data, "IDAT", data[4:])
		}
	}
	return nil
}

func (p *pngFrames) begin(data []byte) error {
	if len(data) != 26 || p.head == nil {
		return errBroken
	}
	n := func(at int) int { return int(binary.BigEndian.Uint32(data[at:])) }
	for at := 4; at < 20; at += 4 {
		if n(at) > 1<<24 {
			return errBroken
		}
	}
	p.frame = frame{at: image.Rect(n(12), n(16), n(12)+n(4), n(16)+n(8)), over: data[25] == 1}
	if p.frame.at.Empty() || !p.frame.at.In(image.Rect(0, 0, p.whole.width, p.whole.height)) {
		return errBroken
	}
	part, of := int(binary.BigEndian.Uint16(data[20:])), int(binary.BigEndian.Uint16(data[22:]))
	if of == 0 {
		of = 100
	}
	p.frame.delay = 1000 * part / of
	switch data[24] {
	case 1:
		p.frame.disposal = clearing
	case 2:
		p.frame.disposal = previous
	}
	copy(p.head, data[4:12])
	p.data.Reset()
	p.begun = true
	return nil
}

// end decodes the frame that is under way, and hands it on.
func (p *pngFrames) end() error {
	if !p.begun || p.data.Len() == 0 {
		return nil
	}
	var one bytes.Buffer
	one.WriteString("\x89PNG\r\n\x1a\n")
	writeChunk(&one, "IHDR", p.head)
	one.Write(p.shared.Bytes())
	one.Write(p.data.Bytes())
	writeChunk(&one, "IEND")
	picture, err := png.Decode(&one)
	if err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	p.frame.picture, p.begun = picture, false
	return p.draw(p.frame)
}
