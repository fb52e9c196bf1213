package media

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// header is what a picture says of itself before anything is decoded.
type header struct {
	format string // jpeg, png, gif, webp
	// width and height as they are stored; the orientation may turn them.
	width, height int
	// orientation is EXIF's, 1 to 8.
	orientation int
	// frames of an animation; 1 for a still picture.
	frames int
	// size of the file in bytes.
	size int64
	// framed: the pictures of a WebP lie in frames, be it only one.
	framed bool
	// weight is how many bytes of memory a pixel takes while it is decoded, at most.
	weight float64
}

var (
	errFormat = errors.New("not a JPEG, PNG, GIF or WebP picture")
	errPixels = errors.New("the picture has too many pixels")
	errBroken = errors.New("the picture is damaged")
)

// maxBlocks bounds the parts of a file that are walked through.
const maxBlocks = 1 << 20

// types are the content types of the formats that we know.
var types = map[string]string{"jpeg": "image/jpeg", "png": "image/png", "gif": "image/gif", "webp": "image/webp"}

// inspect reads what a picture says of itself, by its first bytes alone and not by what its sender says. It decodes nothing.
func inspect(file io.ReadSeeker) (h header, err error) {
	h = header{orientation: 1, frames: 1}
	if h.size, err = file.Seek(0, io.SeekEnd); err != nil {
		return h, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return h, err
	}
	r := bufio.NewReaderSize(file, 32<<10)
	head, _ := r.Peek(16)
	switch {
	case bytes.HasPrefix(head, []byte("\xff\xd8\xff")):
		h.format = "jpeg"
		err = h.readJPEG(r)
	case bytes.HasPrefix(head, []byte("\x89PNG\r\n\x1a\n")):
		h.format = "png"
		err = h.readPNG(r)
	case bytes.HasPrefix(head, []byte("GIF87a")), bytes.HasPrefix(head, []byte("GIF89a")):
		h.format = "gif"
		err = h.readGIF(r)
	case len(head) >= 12 && string(head[:4]) == "RIFF" && string(head[8:12]) == "WEBP":
		h.format = "webp"
		err = h.readWebP(r)
	default:
		return h, errFormat
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errBroken
	}
	if err == nil && (h.width <= 0 || h.height <= 0) {
		err = errBroken
	}
	if err != nil {
		return h, err
	}
	_, err = file.Seek(0, io.SeekStart)
	return h, err
}

// upright gives the size as it is seen.
func (h header) upright() (width, height int) {
	if h.orientation >= 5 {
		return h.height, h.width
	}
	return h.width, h.height
}

// within says whether the picture has at most so many pixels; it does not overflow.
func (h header) within(pixels int) bool { return h.width <= pixels/h.height }

// cost is how many bytes decoding takes, at most.
func (h header) cost() int64 {
	cost := int64(float64(h.width) * float64(h.height) * h.weight)
	if h.framed {
		cost += h.size
	}
	return cost
}

// content reads the whole file, for formats whose frames are found in memory.
func (h header) content(file io.Reader) ([]byte, error) {
	if h.size > maxPicture {
		return nil, errPixels
	}
	raw := make([]byte, h.size)
	if _, err := io.ReadFull(file, raw); err != nil {
		return nil, fmt.Errorf("%w: %w", errBroken, err)
	}
	return raw, nil
}

func skip(r *bufio.Reader, n int64) error {
	for n > 0 {
		done, err := r.Discard(int(min(n, 1<<20)))
		if err != nil {
			return err
		}
		n -= int64(done)
	}
	return nil
}

func read(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

// readJPEG walks the segments up to the frame header.
func (h *header) readJPEG(r *bufio.Reader) error {
	if err := skip(r, 2); err != nil {
		return err
	}
	for range maxBlocks {
		b, err := r.ReadByte()
		if err != nil {
			return err
		}
		if b != 0xff {
			continue // junk between segments, which decoders forgive
		}
		marker, err := r.ReadByte()
		for err == nil && marker == 0xff {
			marker, err = r.ReadByte()
		}
		if err != nil {
			return err
		}
		if marker == 0 || marker == 0x01 || marker >= 0xd0 && marker <= 0xd8 {
			continue
		}
		if marker == 0xd9 || marker == 0xda {
			return errBroken // picture data, and no header yet
		}
		length, err := read(r, 2)
		if err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint16(length)) - 2
		if n < 0 {
			return errBroken
		}
		switch {
		case marker >= 0xc0 && marker <= 0xc2:
			return h.readFrameHeader(r, marker == 0xc2, n)
		case marker > 0xc2 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc:
			return errFormat // a coding that we have no decoder for
		case marker == 0xe1 && n > 6:
			segment, err := read(r, n)
			if err != nil {
				return err
			}
			if tiff, ok := bytes.CutPrefix(segment, []byte("Exif\x00\x00")); ok {
				h.orientation = orientation(tiff)
			}
		default:
			if err := skip(r, int64(n)); err != nil {
				return err
			}
		}
	}
	return errBroken
}

func (h *header) readFrameHeader(r io.Reader, progressive bool, n int) error {
	segment, err := read(r, n)
	if err != nil {
		return err
	}
	if n < 6 || n < 6+3*int(segment[5]) {
		return errBroken
	}
	h.height, h.width = int(binary.BigEndian.Uint16(segment[1:])), int(binary.BigEndian.Uint16(segment[3:]))
	samples, widest, tallest := 0, 1, 1
	for i := range int(segment[5]) {
		s := segment[6+3*i+1]
		across, down := int(s>>4), int(s&15)
		samples += across * down
		widest, tallest = max(widest, across), max(tallest, down)
	}
	h.weight = float64(samples) / float64(widest*tallest)
	if progressive {
		h.weight *= 5 // the coefficients are kept, four bytes each
	}
	if segment[5] == 4 {
		h.weight += 4 // turned from CMYK
	}
	return nil
}

// readPNG walks the chunks up to the picture data.
func (h *header) readPNG(r *bufio.Reader) error {
	if err := skip(r, 8); err != nil {
		return err
	}
	for i := range maxBlocks {
		head, err := read(r, 8)
		if err != nil {
			return err
		}
		n, kind := int64(binary.BigEndian.Uint32(head)), string(head[4:])
		switch {
		case i == 0 && (kind != "IHDR" || n != 13), n > 1<<31-1:
			return errBroken
		case i == 0:
			b, err := read(r, 13)
			if err != nil {
				return err
			}
			h.width, h.height = int(int32(binary.BigEndian.Uint32(b))), int(int32(binary.BigEndian.Uint32(b[4:])))
			h.weight = map[byte]float64{0: 1, 2: 4, 3: 1, 4: 4, 6: 4}[b[9]] // by colour type; absent is none that exists
			if b[8] == 16 {
				h.weight = 8
			}
			if b[12] != 0 {
				h.weight *= 2 // interlaced: passes beside the whole
			}
			n = 0
		case kind == "acTL" && n == 8:
			b, err := read(r, 8)
			if err != nil {
				return err
			}
			h.frames = int(max(1, min(binary.BigEndian.Uint32(b), 1<<30)))
			n = 0
		case kind == "eXIf" && n <= 64<<10:
			b, err := read(r, int(n))
			if err != nil {
				return err
			}
			h.orientation = orientation(b)
			n = 0
		case kind == "IDAT", kind == "IEND":
			return nil
		}
		if err := skip(r, n+4); err != nil {
			return err
		}
	}
	return errBroken
}

// readGIF walks all blocks, since frames are counted in no other way.
func (h *header) readGIF(r *bufio.Reader) error {
	screen, err := read(r, 13)
	if err != nil {
		return err
	}
	h.width, h.height = int(binary.LittleEndian.Uint16(screen[6:])), int(binary.LittleEndian.Uint16(screen[8:]))
	h.weight = 5 // a canvas, and a frame to be drawn on it
	if err := skipColours(r, screen[10]); err != nil {
		return err
	}
	h.frames = 0
	for range maxBlocks {
		kind, err := r.ReadByte()
		if err != nil {
			break // cut short: what is there may do
		}
		switch kind {
		case ',':
			h.frames++
			if err = skipFrame(r); err != nil {
				break
			}
		case '!':
			if err = skip(r, 1); err == nil {
				err = skipSubBlocks(r)
			}
		case ';':
			err = io.EOF
		default:
			return errBroken
		}
		if err != nil {
			break
		}
	}
	h.frames = max(h.frames, 1)
	return nil
}

func skipFrame(r *bufio.Reader) error {
	b, err := read(r, 9)
	if err != nil {
		return err
	}
	if err := skipColours(r, b[8]); err != nil {
		return err
	}
	if err := skip(r, 1); err != nil {
		return err
	}
	return skipSubBlocks(r)
}

func skipColours(r *bufio.Reader, flags byte) error {
	if flags&0x80 == 0 {
		return nil
	}
	return skip(r, 3<<(flags&7+1))
}

func skipSubBlocks(r *bufio.Reader) error {
	for {
		n, err := r.ReadByte()
		if err != nil || n == 0 {
			return err
		}
		if err := skip(r, int64(n)); err != nil {
			return err
		}
	}
}

// readWebP walks the chunks.
func (h *header) readWebP(r *bufio.Reader) error {
	if err := skip(r, 12); err != nil {
		return err
	}
	frames, extended := 0, false
	for range maxBlocks {
		head, err := read(r, 8)
		if err != nil {
			break // the end
		}
		kind, n := string(head[:4]), int64(binary.LittleEndian.Uint32(head[4:]))
		n += n & 1
		switch {
		case kind == "VP8X" && n >= 10:
			b, err := read(r, 10)
			if err != nil {
				return err
			}
			extended = true
			h.width, h.height = 1+little24(b[4:]), 1+little24(b[7:])
			h.weight = 8
			n -= 10
		case kind == "VP8 " && !extended && n >= 10:
			b, err := read(r, 10)
			if err != nil {
				return err
			}
			h.width, h.height = int(binary.LittleEndian.Uint16(b[6:]))&0x3fff, int(binary.LittleEndian.Uint16(b[8:]))&0x3fff
			h.weight = 2
			return nil
		case kind == "VP8L" && !extended && n >= 5:
			b, err := read(r, 5)
			if err != nil {
				return err
			}
			bits := binary.LittleEndian.Uint32(b[1:])
			h.width, h.height = 1+int(bits&0x3fff), 1+int(bits>>14&0x3fff)
			h.weight = 8
			return nil
		case kind == "ANMF":
			frames++
		case kind == "EXIF" && n <= 64<<10:
			b, err := read(r, int(n))
			if err != nil {
				return err
			}
			h.orientation = orientation(bytes.TrimPrefix(b, []byte("Exif\x00\x00")))
			n = 0
		}
		if skip(r, n) != nil {
			break
		}
	}
	h.frames, h.framed = max(1, frames), frames > 0
	if !extended {
		return fmt.Errorf("%w: no picture in it", errBroken)
	}
	return nil
}

func little24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }

// orientation reads EXIF's tag 0x0112 of the first directory; 1 where there is none.
func orientation(tiff []byte) int {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(tiff, []byte("II*\x00")):
		order = binary.LittleEndian
	case bytes.HasPrefix(tiff, []byte("MM\x00*")):
		order = binary.BigEndian
	default:
		return 1
	}
	if len(tiff) < 8 {
		return 1
	}
	at := int64(order.Uint32(tiff[4:]))
	if at+2 > int64(len(tiff)) {
		return 1
	}
	entries := int64(order.Uint16(tiff[at:]))
	for i := range entries {
		entry := at + 2 + 12*i
		if entry+12 > int64(len(tiff)) {
			return 1
		}
		if order.Uint16(tiff[entry:]) == 0x0112 && order.Uint16(tiff[entry+2:]) == 3 {
			if v := int(order.Uint16(tiff[entry+8:])); v >= 1 && v <= 8 {
				return v
			}
			return 1
		}
	}
	return 1
}
