package media

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/image/webp"

	"chancery/storage"
)

func solid(w, h int, c color.Color) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for x := range w {
		for y := range h {
			img.Set(x, y, c)
		}
	}
	return img
}

func png1() []byte { return pngOf(solid(40, 20, color.RGBA{200, 0, 0, 255})) }

func pngOf(img image.Image) []byte {
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// bits writes VP8L's bits, the lowest first.
type bits struct {
	out  []byte
	used int
}

func (b *bits) put(v, n int) {
	for i := range n {
		if b.used%8 == 0 {
			b.out = append(b.out, 0)
		}
		b.out[len(b.out)-1] |= byte(v>>i&1) << (b.used % 8)
		b.used++
	}
}

// webpChunk is a picture of one colour, of any size, in a few bytes: each code has one symbol, which takes no bits.
func webpChunk(w, h int, c color.RGBA) []byte {
	b := &bits{out: []byte{0x2f}, used: 8}
	b.put(w-1, 14)
	b.put(h-1, 14)
	b.put(1, 1) // alpha is used
	b.put(0, 3)
	b.put(0, 1) // no transform
	b.put(0, 1) // no colour cache
	b.put(0, 1) // one set of codes
	for _, v := range []uint8{c.G, c.R, c.B, c.A, 0} {
		b.put(1, 1) // a simple code
		b.put(0, 1) // of one symbol
		b.put(1, 1) // of eight bits
		b.put(int(v), 8)
	}
	return riff("VP8L", b.out)
}

func riff(kind string, data []byte) []byte {
	out := binary.LittleEndian.AppendUint32([]byte(kind), uint32(len(data)))
	out = append(out, data...)
	if len(data)%2 == 1 {
		out = append(out, 0)
	}
	return out
}

func webpOf(chunks ...[]byte) []byte {
	body := append([]byte("WEBP"), bytes.Join(chunks, nil)...)
	return riff("RIFF", body)
}

func n24(v int) []byte { return []byte{byte(v), byte(v >> 8), byte(v >> 16)} }

// animatedWebP has frames of one colour each, half as large as the canvas, from its left upper corner.
func animatedWebP(w, h int, colours ...color.RGBA) []byte {
	chunks := [][]byte{
		riff("VP8X", append(append([]byte{0x12, 0, 0, 0}, n24(w-1)...), n24(h-1)...)),
		riff("ANIM", []byte{0, 0, 0, 0, 3, 0}),
	}
	for _, c := range colours {
		frame := append(append(append(append(append(n24(0), n24(0)...), n24(w/2-1)...), n24(h/2-1)...), n24(120)...), 0)
		chunks = append(chunks, riff("ANMF", append(frame, webpChunk(w/2, h/2, c)...)))
	}
	return webpOf(chunks...)
}

func animatedGIF(w, h, n int) []byte {
	g := &gif.GIF{LoopCount: 0}
	for i := range n {
		p := image.NewPaletted(image.Rect(0, 0, w, h), color.Palette{color.RGBA{255, 0, 0, 255}, color.RGBA{0, 0, 255, 255}})
		for j := range p.Pix {
			p.Pix[j] = uint8(i % 2)
		}
		g.Image, g.Delay = append(g.Image, p), append(g.Delay, 5+i)
	}
	var b bytes.Buffer
	if err := gif.EncodeAll(&b, g); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// apng makes a still picture an animated one of two frames, by hand: the still, and a smaller one.
func apng(w, h int) []byte {
	var out bytes.Buffer
	out.WriteString("\x89PNG\r\n\x1a\n")
	n := uint32(0)
	control := func(w, h int) []byte {
		var c []byte
		for _, v := range []int{int(n), w, h, 0, 0} {
			c = binary.BigEndian.AppendUint32(c, uint32(v))
		}
		n++
		return append(c, 0, 1, 0, 10, 0, 0) // a tenth of a second
	}
	_ = eachChunk(pngOf(solid(w, h, color.RGBA{255, 0, 0, 255})), func(kind string, data []byte) error {
		switch kind {
		case "IHDR":
			writeChunk(&out, kind, data)
			writeChunk(&out, "acTL", []byte{0, 0, 0, 2, 0, 0, 0, 0})
			writeChunk(&out, "fcTL", control(w, h))
		case "IDAT":
			writeChunk(&out, kind, data)
		}
		return nil
	})
	writeChunk(&out, "fcTL", control(w/2, h/2))
	_ = eachChunk(pngOf(solid(w/2, h/2, color.RGBA{0, 0, 255, 255})), func(kind string, data []byte) error {
		if kind == "IDAT" {
			writeChunk(&out, "fdAT", binary.BigEndian.AppendUint32(nil, n), data)
			n++
		}
		return nil
	})
	writeChunk(&out, "IEND")
	return out.Bytes()
}

// exif puts an orientation before a JPEG's other segments.
func exif(jpeg []byte, orientation byte) []byte {
	tiff := append([]byte("Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00"), orientation, 0, 0, 0, 0, 0, 0)
	segment := append([]byte{0xff, 0xe1, 0, byte(len(tiff) + 2)}, tiff...)
	return append(append(bytes.Clone(jpeg[:2]), segment...), jpeg[2:]...)
}

func TestStillThumbnails(t *testing.T) {
	h := open(t, nil)
	// Red on the left, blue on the right.
	half := solid(400, 200, color.RGBA{200, 0, 0, 255})
	for x := 200; x < 400; x++ {
		for y := range 200 {
			half.Set(x, y, color.RGBA{0, 0, 200, 255})
		}
	}
	var photo bytes.Buffer
	if err := jpeg.Encode(&photo, half, nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name        string
		content     []byte
		query       string
		contentType string
		w, h        int
		left        string // which colour the left upper corner has
	}{
		{"png", pngOf(half), "width=320&height=240&method=scale", "image/png", 320, 160, "red"},
		{"png cropped", pngOf(half), "width=96&height=96&method=crop", "image/png", 96, 96, "red"},
		{"png in a shape of its own", pngOf(half), "width=100&height=50&method=crop", "image/png", 100, 50, "red"},
		{"png small enough", pngOf(half), "width=640&height=480&method=scale", "image/png", 400, 200, "red"},
		{"jpeg", photo.Bytes(), "width=320&height=240&method=scale", "image/jpeg", 320, 160, "red"},
		{"jpeg upside down", exif(photo.Bytes(), 3), "width=320&height=240&method=scale", "image/jpeg", 320, 160, "blue"},
		{"jpeg turned", exif(photo.Bytes(), 6), "width=320&height=240&method=scale", "image/jpeg", 120, 240, "red"},
		{"jpeg turned the other way", exif(photo.Bytes(), 8), "width=320&height=240&method=scale", "image/jpeg", 120, 240, "blue"},
		{"gif", animatedGIF(400, 200, 3), "width=320&height=240&method=scale", "image/png", 320, 160, "red"},
		{"gif, still", animatedGIF(100, 50, 3), "width=320&height=240&method=scale&animated=false", "image/png", 100, 50, "red"},
		{"webp", webpOf(webpChunk(400, 200, color.RGBA{200, 0, 0, 255})), "width=320&height=240&method=scale", "image/jpeg", 320, 160, "red"},
		{"webp that shows through", webpOf(webpChunk(400, 200, color.RGBA{200, 0, 0, 128})), "width=320&height=240&method=scale", "image/png", 320, 160, "red"},
		{"webp animation, still", animatedWebP(400, 200, color.RGBA{200, 0, 0, 255}, color.RGBA{0, 0, 200, 255}), "width=320&height=240", "image/png", 320, 160, "red"},
		{"apng, still", apng(400, 200), "width=320&height=240", "image/png", 320, 160, "red"},
		{"a line", pngOf(solid(4000, 1, color.RGBA{200, 0, 0, 255})), "width=320&height=240&method=scale", "image/png", 320, 1, "red"},
	} {
		media := h.upload(c.content, "application/octet-stream") // what the sender says of it counts for nothing
		got := h.do("alice", "GET", "/thumbnail/interior/"+media+"?"+c.query, nil)
		if got.code != 200 || got.header.Get("Content-Type") != c.contentType {
			t.Errorf("%s: %d %s %.100q, want 200 %s", c.name, got.code, got.header.Get("Content-Type"), got.body, c.contentType)
			continue
		}
		img, _, err := image.Decode(bytes.NewReader(got.body))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		colour := "red"
		if r, _, b, _ := img.At(0, 0).RGBA(); b > r {
			colour = "blue"
		}
		if b := img.Bounds(); b.Dx() != c.w || b.Dy() != c.h || colour != c.left {
			t.Errorf("%s: %v, %s on the left, want %dx%d and %s", c.name, b, colour, c.w, c.h, c.left)
		}
		if d := got.header.Get("Content-Disposition"); d[:6] != "inline" {
			t.Errorf("%s: disposition %q, want inline", c.name, d)
		}
		again := h.do("alice", "GET", "/thumbnail/interior/"+media+"?"+c.query, nil)
		if again.header.Get("ETag") != got.header.Get("ETag") {
			t.Errorf("%s: another one the second time", c.name)
		}
	}
}

func TestAnimatedThumbnails(t *testing.T) {
	h := open(t, nil)
	colours := []color.RGBA{{200, 0, 0, 255}, {0, 0, 200, 255}, {0, 200, 0, 255}}
	for _, c := range []struct {
		name        string
		content     []byte
		contentType string
		frames      int
	}{
		{"gif", animatedGIF(400, 200, 3), "image/gif", 3},
		{"webp", animatedWebP(400, 200, colours...), "image/apng", 3},
		{"apng", apng(400, 200), "image/apng", 2},
		{"still", pngOf(solid(400, 200, colours[0])), "image/png", 1},
	} {
		media := h.upload(c.content, "image/x")
		got := h.do("alice", "GET", "/thumbnail/interior/"+media+"?width=320&height=240&method=scale&animated=true", nil)
		if got.code != 200 || got.header.Get("Content-Type") != c.contentType {
			t.Errorf("%s: %d %s %.100q, want 200 %s", c.name, got.code, got.header.Get("Content-Type"), got.body, c.contentType)
			continue
		}
		head, err := inspect(bytes.NewReader(got.body))
		if err != nil || head.frames != c.frames || head.width != 320 || head.height != 160 {
			t.Errorf("%s: %+v (%v), want %d frames of 320x160", c.name, head, err, c.frames)
		}
		if c.contentType != "image/apng" {
			continue
		}
		// Each frame can be decoded, and shows what it should: the second colour in the left upper quarter.
		var seen []string
		_, err = framesOfPNG(got.body, head, func(f frame) error {
			r, g, b, a := f.picture.At(10, 10).RGBA()
			seen = append(seen, fmt.Sprint(r>>8, g>>8, b>>8, a>>8, f.delay))
			return nil
		})
		if err != nil || len(seen) != c.frames || seen[0] == seen[1] {
			t.Errorf("%s: frames %v (%v)", c.name, seen, err)
		}
	}
	small := animatedGIF(100, 50, 4)
	got := h.do("alice", "GET", "/thumbnail/interior/"+h.upload(small, "image/gif")+"?width=320&height=240&animated=true", nil)
	if got.code != 200 || !bytes.Equal(got.body, small) {
		t.Errorf("an animation that is small enough: %d, %d bytes, want the original's %d", got.code, len(got.body), len(small))
	}
}

// M3, M4: what is hostile is refused by what its header says, or by its decoder; never with a 500.
func TestHostilePictures(t *testing.T) {
	h := open(t, nil)
	huge := func(w, h uint32) []byte {
		p := pngOf(solid(1, 1, color.Black))
		binary.BigEndian.PutUint32(p[16:], w)
		binary.BigEndian.PutUint32(p[20:], h)
		return p
	}
	hugeGIF := animatedGIF(2, 2, 1)
	binary.LittleEndian.PutUint16(hugeGIF[6:], 65535)
	binary.LittleEndian.PutUint16(hugeGIF[8:], 65535)
	lying := webpOf(riff("VP8X", append(append([]byte{2, 0, 0, 0}, n24(399)...), n24(399)...)),
		riff("ANMF", append(append(append(append(append(n24(0), n24(0)...), n24(399)...), n24(399)...), n24(1)...), append([]byte{0}, webpChunk(16000, 16000, color.RGBA{})...)...)))
	whole := pngOf(noise(400, 400))
	damaged := bytes.Clone(whole)
	damaged[len(damaged)/2] ^= 0xff
	for _, c := range []struct {
		name    string
		content []byte
		code    int
		errcode string
	}{
		{"png of 2,500 million pixels", huge(50_000, 50_000), 413, "M_TOO_LARGE"},
		{"png wider than numbers go", huge(1<<31-1, 1<<31-1), 413, "M_TOO_LARGE"},
		{"png of nothing", huge(0, 10), 400, "M_UNKNOWN"},
		{"png of less than nothing", huge(1<<31, 10), 400, "M_UNKNOWN"},
		{"gif of 4,000 million pixels", hugeGIF, 413, "M_TOO_LARGE"},
		{"webp of 256 million pixels", webpOf(webpChunk(16000, 16000, color.RGBA{})), 413, "M_TOO_LARGE"},
		{"webp whose frame is larger than it says", lying, 400, "M_UNKNOWN"},
		{"damaged png", damaged, 400, "M_UNKNOWN"},
		{"half a png", whole[:len(whole)/2], 400, "M_UNKNOWN"},
		{"svg", []byte(`<svg xmlns="http://www.w3.org/2000/svg"/>`), 400, "M_UNKNOWN"},
		{"text", []byte("hello"), 400, "M_UNKNOWN"},
		{"nothing", nil, 400, "M_UNKNOWN"},
		{"jpeg without a picture", []byte("\xff\xd8\xff\xe0\x00\x02\xff\xd9"), 400, "M_UNKNOWN"},
	} {
		media := h.upload(c.content, "image/png")
		for _, animated := range []string{"", "&animated=true"} {
			got := h.do("alice", "GET", "/thumbnail/interior/"+media+"?width=8&height=8&method=scale"+animated, nil)
			if got.code != c.code || got.field("errcode") != c.errcode {
				t.Errorf("%s%s: %d %s, want %d %s", c.name, animated, got.code, got.body, c.code, c.errcode)
			}
		}
	}
	for _, query := range []string{"", "width=10", "width=-1&height=10", "width=x&height=10", "width=10&height=10&method=stretch", "width=10&height=10&animated=perhaps"} {
		if got := h.do("alice", "GET", "/thumbnail/interior/"+h.upload(png1(), "image/png")+"?"+query, nil); got.code != 400 {
			t.Errorf("%q: %d %s, want 400", query, got.code, got.body)
		}
	}
	// Thousands of frames: a still is made.
	many := animatedGIF(20, 20, maxFrames+1)
	got := h.do("alice", "GET", "/thumbnail/interior/"+h.upload(many, "image/gif")+"?width=10&height=10&animated=true", nil)
	if got.code != 200 {
		t.Errorf("too many frames: %d %s", got.code, got.body)
	}
}

func TestOneThumbnailIsMadeForAll(t *testing.T) {
	h := open(t, nil)
	media := h.upload(pngOf(noise(300, 300)), "image/png")
	start := time.Now()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if got := h.do("alice", "GET", "/thumbnail/interior/"+media+"?width=32&height=32&method=crop", nil); got.code != 200 {
				t.Errorf("%d %s", got.code, got.body)
			}
		})
	}
	all.Wait()
	t.Logf("twenty at once: %v", time.Since(start))
	made, err := h.store.Media.Thumbnails(t.Context(), "interior", media)
	if err != nil || len(made) != 1 {
		t.Errorf("%d thumbnails (%v), want one", len(made), err)
	}
	// However many shapes are asked for, few are kept.
	for i := range maxShapes + 10 {
		h.do("alice", "GET", fmt.Sprintf("/thumbnail/interior/%s?width=%d&height=50&method=crop", media, 60+i), nil)
	}
	if made, err = h.store.Media.Thumbnails(t.Context(), "interior", media); err != nil || len(made) > maxShapes+2 {
		t.Errorf("%d thumbnails (%v), want at most %d", len(made), err, maxShapes+2)
	}
}

func noise(w, h int) image.Image {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	r := rand.New(rand.NewPCG(1, 2))
	for i := range img.Pix {
		img.Pix[i] = byte(r.Uint32())
	}
	return img
}

func TestTheWebPOfTheTestsIsOne(t *testing.T) {
	img, err := webp.Decode(bytes.NewReader(webpOf(webpChunk(40, 20, color.RGBA{1, 2, 3, 255}))))
	if err != nil || img.Bounds().Dx() != 40 || img.Bounds().Dy() != 20 {
		t.Fatalf("%v (%v)", img, err)
	}
}

func TestFittingIsNeverSmaller(t *testing.T) {
	for _, c := range []struct {
		w, h   int
		method string
		want   size
	}{
		{32, 32, "crop", size{32, 32, "crop"}},
		{33, 33, "crop", size{96, 96, "crop"}},
		{96, 96, "crop", size{96, 96, "crop"}},
		{97, 10, "scale", size{320, 240, "scale"}},
		{32, 32, "scale", size{320, 240, "scale"}},
		{100, 50, "crop", size{100, 50, "crop"}},
		{801, 601, "scale", size{1600, 1200, "scale"}},
		{900, 400, "crop", size{1600, 1200, "scale"}},
		{4096, 4096, "scale", size{3200, 2400, "scale"}},
		{800, 800, "crop", size{800, 800, "crop"}},
	} {
		if got := fitting(c.w, c.h, c.method); got != c.want {
			t.Errorf("%dx%d %s: %v, want %v", c.w, c.h, c.method, got, c.want)
		}
	}
}

func FuzzThumbnail(f *testing.F) {
	var photo bytes.Buffer
	_ = jpeg.Encode(&photo, solid(20, 10, color.White), nil)
	for _, seed := range [][]byte{
		png1(), exif(photo.Bytes(), 6), animatedGIF(20, 10, 2), webpOf(webpChunk(20, 10, color.RGBA{})),
		animatedWebP(20, 10, color.RGBA{1, 2, 3, 4}, color.RGBA{5, 6, 7, 8}), apng(20, 10), []byte("GIF89a"), []byte("RIFF....WEBPVP8 "),
	} {
		f.Add(seed)
	}
	want := storage.Thumbnail{Width: 8, Height: 8, Method: "crop"}
	f.Fuzz(func(t *testing.T, raw []byte) {
		head, err := inspect(bytes.NewReader(raw))
		if err != nil || !head.within(50_000) || head.cost() > 4<<20 {
			return
		}
		if small, _, err := shrink(bytes.NewReader(raw), head, want); err == nil {
			if _, _, err := image.Decode(bytes.NewReader(small)); err != nil {
				t.Errorf("the thumbnail cannot be decoded: %v", err)
			}
		}
		if head.animatable(want) && head.animationCost(want) <= 4<<20 {
			_, _, _ = shrinkAnimation(bytes.NewReader(raw), head, want)
		}
	})
}
