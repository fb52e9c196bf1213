package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/color/palette"
	"image/draw"
	"image/gif"
	"image/png"
	"io"
	"slices"

	"golang.org/x/image/webp"

	"chancery/storage"
)

// Bounds of the animations that are made smaller; of others a still is made.
const (
	maxFrames = 1000
	// maxAnimated bounds the pixels of all frames together, drawn and written.
	maxAnimated = 200_000_000
	maxWritten  = 40_000_000
)

// disposal says what becomes of a frame's place before the next one is drawn.
type disposal byte

const (
	keep disposal = iota
	clearing
	previous
)

// frame is one picture of an animation.
type frame struct {
	picture image.Image
	// at is where it lies on the canvas.
	at image.Rectangle
	// over draws it over what is there; otherwise it takes its place.
	over     bool
	disposal disposal
	// delay in milliseconds until the next.
	delay   int
	palette color.Palette // of a GIF's frame
}

// animatable says whether the animation is small enough to be made smaller whole.
func (h header) animatable(want storage.Thumbnail) bool {
	if h.frames < 2 || h.frames > maxFrames {
		return false
	}
	_, width, height := layout(image.Rect(0, 0, h.width, h.height), want.Width, want.Height, want.Method)
	return h.width*h.height <= maxAnimated/h.frames && width*height <= maxWritten/h.frames
}

// animationCost is how many bytes making an animation smaller takes, at most.
func (h header) animationCost(want storage.Thumbnail) int64 {
	_, width, height := layout(image.Rect(0, 0, h.width, h.height), want.Width, want.Height, want.Method)
	cost := h.size + int64(h.width)*int64(h.height)*16 + int64(h.frames)*int64(width)*int64(height)
	if h.format == "gif" {
		cost += int64(h.frames) * int64(h.width) * int64(h.height) // all frames are decoded at once
	}
	return cost
}

// shrinkAnimation makes an animated thumbnail: of a GIF a GIF, of others an animated PNG.
func shrinkAnimation(file io.ReadSeeker, h header, want storage.Thumbnail) (picture []byte, contentType string, err error) {
	defer func() {
		if p := recover(); p != nil {
			picture, err = nil, fmt.Errorf("%w: %v", errBroken, p)
		}
	}()
	switch h.format {
	case "gif":
		picture, err = shrinkGIF(file, h, want)
		return picture, "image/gif", err
	case "png", "webp":
		raw, err := h.content(file)
		if err != nil {
			return nil, "", err
		}
		each := framesOfPNG
		if h.format == "webp" {
			each = framesOfWebP
		}
		picture, err = shrinkToPNG(h, want, func(draw func(frame) error) (int, error) { return each(raw, h, draw) })
		return picture, "image/apng", err
	}
	return nil, "", errFormat
}

// canvas is what an animation is drawn on.
type canvas struct {
	image  *image.RGBA
	before *image.RGBA // for frames that are taken back
}

func newCanvas(h header) *canvas {
	return &canvas{image: image.NewRGBA(image.Rect(0, 0, h.width, h.height))}
}

// draw puts a frame on the canvas, hands the canvas to shown, and disposes of the frame.
func (c *canvas) draw(f frame, shown func() error) error {
	if !f.at.In(c.image.Rect) {
		return errBroken
	}
	if f.disposal == previous {
		if c.before == nil {
			c.before = image.NewRGBA(c.image.Rect)
		}
		draw.Draw(c.before, f.at, c.image, f.at.Min, draw.Src)
	}
	op := draw.Src
	if f.over {
		op = draw.Over
	}
	draw.Draw(c.image, f.at, f.picture, f.picture.Bounds().Min, op)
	if err := shown(); err != nil {
		return err
	}
	switch f.disposal {
	case clearing:
		draw.Draw(c.image, f.at, image.Transparent, image.Point{}, draw.Src)
	case previous:
		draw.Draw(c.image, f.at, c.before, f.at.Min, draw.Src)
	}
	return nil
}

func shrinkGIF(file io.Reader, h header, want storage.Thumbnail) ([]byte, error) {
	source, err := gif.DecodeAll(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBroken, err)
	}
	if source.Config.Width != h.width || source.Config.Height != h.height || len(source.Image) > h.frames {
		return nil, errBroken
	}
	out := &gif.GIF{LoopCount: source.LoopCount}
	on, colours := newCanvas(h), &quantizer{}
	for i, p := range source.Image {
		f := frame{picture: p, at: p.Rect, over: true, palette: p.Palette}
		switch source.Disposal[i] {
		case gif.DisposalBackground:
			f.disposal = clearing
		case gif.DisposalPrevious:
			f.disposal = previous
		}
		err := on.draw(f, func() error {
			small, clear := colours.reduce(fit(on.image, 1, want), p.Palette)
			out.Image, out.Delay = append(out.Image, small), append(out.Delay, source.Delay[i])
			disposal := byte(gif.DisposalNone)
			if clear {
				disposal = gif.DisposalBackground
			}
			out.Disposal = append(out.Disposal, disposal)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	// A frame that shows through must not show the one before it.
	if slices.Contains(out.Disposal, gif.DisposalBackground) {
		for i := range out.Disposal {
			out.Disposal[i] = gif.DisposalBackground
		}
	}
	var b bytes.Buffer
	err = gif.EncodeAll(&b, out)
	return b.Bytes(), err
}

// quantizer brings pictures down to the colours of a palette; it remembers what it found while the palette stays.
type quantizer struct {
	source, palette color.Palette
	clear           uint8
	found           []int16 // by five bits of each colour; -1 for not yet looked for
}

func (q *quantizer) use(p color.Palette) {
	if q.found != nil && slices.Equal(q.source, p) {
		return
	}
	q.source = p
	q.palette = slices.Clone(p)
	if len(q.palette) == 0 {
		q.palette = slices.Clone(color.Palette(palette.Plan9))
	}
	at := slices.IndexFunc(q.palette, func(c color.Color) bool { _, _, _, a := c.RGBA(); return a == 0 })
	if at < 0 && len(q.palette) == 256 {
		q.palette, at = q.palette[:255], 255
		q.palette = append(q.palette, color.Transparent)
	} else if at < 0 {
		q.palette, at = append(q.palette, color.Transparent), len(q.palette)
	}
	q.clear = uint8(at)
	if q.found == nil {
		q.found = make([]int16, 1<<15)
	}
	for i := range q.found {
		q.found[i] = -1
	}
}

// reduce gives the picture in the palette's colours, and whether something in it is transparent.
func (q *quantizer) reduce(p *image.RGBA, colours color.Palette) (out *image.Paletted, clear bool) {
	q.use(colours)
	out = image.NewPaletted(p.Rect, q.palette)
	for i := range out.Pix {
		c := p.Pix[4*i : 4*i+4]
		if c[3] < 128 {
			out.Pix[i], clear = q.clear, true
			continue
		}
		key := int(c[0]>>3)<<10 | int(c[1]>>3)<<5 | int(c[2]>>3)
		if q.found[key] < 0 {
			q.found[key] = int16(q.palette.Index(color.RGBA{c[0], c[1], c[2], 255}))
		}
		out.Pix[i] = uint8(q.found[key])
	}
	return out, clear
}

// shrinkToPNG writes an animated PNG: each frame whole, in the same form.
func shrinkToPNG(h header, want storage.Thumbnail, each func(func(frame) error) (plays int, err error)) ([]byte, error) {
	on := newCanvas(h)
	var frames bytes.Buffer
	var head []byte // of the first frame: IHDR
	n, sequence := 0, uint32(0)
	chunk := func(kind string, parts ...[]byte) { writeChunk(&frames, kind, parts...) }
	plays, err := each(func(f frame) error {
		if n >= h.frames {
			return errBroken
		}
		return on.draw(f, func() error {
			small := fit(on.image, h.orientation, want)
			var one bytes.Buffer
			if err := (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&one, translucent{small}); err != nil {
				return err
			}
			control := binary.BigEndian.AppendUint32(nil, sequence)
			control = binary.BigEndian.AppendUint32(control, uint32(small.Rect.Dx()))
			control = binary.BigEndian.AppendUint32(control, uint32(small.Rect.Dy()))
			control = append(control, make([]byte, 8)...)
			control = binary.BigEndian.AppendUint16(control, uint16(min(f.delay, 65535)))
			control = binary.BigEndian.AppendUint16(control, 1000)
			chunk("fcTL", append(control, 0, 0))
			sequence++
			return eachChunk(one.Bytes(), func(kind string, data []byte) error {
				switch {
				case kind == "IHDR" && n == 0:
					head = data
				case kind == "IDAT" && n == 0:
					chunk("IDAT", data)
				case kind == "IDAT":
					chunk("fdAT", binary.BigEndian.AppendUint32(nil, sequence), data)
					sequence++
				case kind == "IEND":
					n++
				}
				return nil
			})
		})
	})
	if err == nil && n == 0 {
		err = errBroken
	}
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.WriteString("\x89PNG\r\n\x1a\n")
	writeChunk(&out, "IHDR", head)
	control := binary.BigEndian.AppendUint32(nil, uint32(n))
	writeChunk(&out, "acTL", binary.BigEndian.AppendUint32(control, uint32(plays)))
	out.Write(frames.Bytes())
	writeChunk(&out, "IEND")
	return out.Bytes(), nil
}

// translucent is a picture of which the encoder keeps the alpha channel, whatever is in it: all frames have one form.
type translucent struct{ *image.RGBA }

func (translucent) Opaque() bool { return false }

// framesOfWebP hands the frames of an animated WebP on.
func framesOfWebP(raw []byte, h header, draw func(frame) error) (plays int, err error) {
	n := 0
	err = eachRIFF(raw[min(len(raw), 12):], func(kind string, data []byte) error {
		switch {
		case kind == "ANIM" && len(data) >= 6:
			plays = int(binary.LittleEndian.Uint16(data[4:]))
		case kind == "ANMF":
			f, err := webpFrame(data, h)
			if err != nil {
				return err
			}
			n++
			return draw(f)
		}
		return nil
	})
	return plays, err
}

// errEnough ends a walk early.
var errEnough = errors.New("enough")

// firstFrame decodes the first frame of an animated WebP.
func firstFrame(file io.Reader, h header) (image.Image, error) {
	raw, err := h.content(file)
	if err != nil {
		return nil, err
	}
	on := newCanvas(h)
	_, err = framesOfWebP(raw, h, func(f frame) error {
		return on.draw(f, func() error { return errEnough })
	})
	if err == nil {
		err = errBroken
	}
	if errors.Is(err, errEnough) {
		return on.image, nil
	}
	return nil, err
}

// webpFrame decodes one frame: its chunks are those of a still picture, which is made of them.
func webpFrame(data []byte, h header) (f frame, err error) {
	if len(data) < 16 {
		return f, errBroken
	}
	x, y, w, l := 2*little24(data), 2*little24(data[3:]), 1+little24(data[6:]), 1+little24(data[9:])
	f.at = image.Rect(x, y, x+w, y+l)
	if !f.at.In(image.Rect(0, 0, h.width, h.height)) {
		return f, errBroken
	}
	f.delay, f.over = little24(data[12:]), data[15]&2 == 0
	if data[15]&1 != 0 {
		f.disposal = clearing
	}
	picture := data[16:]
	var whole bytes.Buffer
	whole.WriteString("RIFF\x00\x00\x00\x00WEBP")
	if bytes.HasPrefix(picture, []byte("ALPH")) {
		whole.WriteString("VP8X\x0a\x00\x00\x00\x10\x00\x00\x00")
		whole.Write([]byte{byte(w - 1), byte((w - 1) >> 8), byte((w - 1) >> 16), byte(l - 1), byte((l - 1) >> 8), byte((l - 1) >> 16)})
	}
	whole.Write(picture)
	if whole.Len()%2 == 1 {
		whole.WriteByte(0)
	}
	binary.LittleEndian.PutUint32(whole.Bytes()[4:], uint32(whole.Len()-8))
	config, err := webp.DecodeConfig(bytes.NewReader(whole.Bytes()))
	if err == nil && (config.Width != w || config.Height != l) {
		err = errBroken
	}
	if err == nil {
		f.picture, err = webp.Decode(bytes.NewReader(whole.Bytes()))
	}
	if err != nil {
		return f, fmt.Errorf("%w: %w", errBroken, err)
	}
	return f, nil
}

// eachRIFF walks RIFF chunks.
func eachRIFF(raw []byte, see func(kind string, data []byte) error) error {
	for len(raw) >= 8 {
		kind, n := string(raw[:4]), int64(binary.LittleEndian.Uint32(raw[4:]))
		raw = raw[8:]
		if n > int64(len(raw)) {
			return errBroken
		}
		if err := see(kind, raw[:n]); err != nil {
			return err
		}
		raw = raw[min(int64(len(raw)), n+n&1):]
	}
	return nil
}
