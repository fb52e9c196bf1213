package media

import (
	"bytes"
	"fmt"
	"image"
	"image/draw"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"

	xdraw "golang.org/x/image/draw"
	"golang.org/x/image/webp"

	"chancery/storage"
)

// shrink makes a still thumbnail of a picture whose header was found bounded. A decoder's panic is an error.
func shrink(file io.ReadSeeker, h header, want storage.Thumbnail) (picture []byte, contentType string, err error) {
	defer func() {
		if p := recover(); p != nil {
			picture, err = nil, fmt.Errorf("%w: %v", errBroken, p)
		}
	}()
	source, err := still(file, h)
	if err != nil {
		return nil, "", err
	}
	// What was decoded has to be what the header promised.
	if b := source.Bounds(); b.Dx() != h.width || b.Dy() != h.height {
		return nil, "", errBroken
	}
	small := fit(source, h.orientation, want)
	var out bytes.Buffer
	if h.format == "jpeg" || h.format == "webp" && small.Opaque() {
		err = jpeg.Encode(&out, small, &jpeg.Options{Quality: 80})
		return out.Bytes(), "image/jpeg", err
	}
	err = png.Encode(&out, small)
	return out.Bytes(), "image/png", err
}

// still decodes a picture, or the first frame of an animation.
func still(file io.ReadSeeker, h header) (image.Image, error) {
	var source image.Image
	var err error
	switch h.format {
	case "jpeg":
		source, err = jpeg.Decode(file)
	case "png":
		source, err = png.Decode(file)
	case "gif":
		if source, err = gif.Decode(file); err == nil {
			source = onCanvas(source, h)
		}
	case "webp":
		if h.framed {
			return firstFrame(file, h)
		}
		source, err = webp.Decode(file)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBroken, err)
	}
	return source, nil
}

// onCanvas puts the first frame of a GIF where it belongs: it may be smaller than the whole.
func onCanvas(frame image.Image, h header) image.Image {
	whole := image.Rect(0, 0, h.width, h.height)
	if frame.Bounds() == whole {
		return frame
	}
	canvas := image.NewRGBA(whole)
	draw.Draw(canvas, frame.Bounds(), frame, frame.Bounds().Min, draw.Src)
	return canvas
}

// fit shrinks a picture into the wanted frame, or fills the frame and cuts off what stands over; and turns it upright. It
// never enlarges.
func fit(source image.Image, orientation int, want storage.Thumbnail) *image.RGBA {
	frameWidth, frameHeight := want.Width, want.Height
	if orientation >= 5 {
		frameWidth, frameHeight = frameHeight, frameWidth
	}
	cut, width, height := layout(source.Bounds(), frameWidth, frameHeight, want.Method)
	return turned(resample(source, cut, width, height), orientation)
}

// layout says which part of the picture is shown, and at what size.
func layout(whole image.Rectangle, frameWidth, frameHeight int, method string) (cut image.Rectangle, width, height int) {
	w, h := whole.Dx(), whole.Dy()
	cut = whole
	if method == "crop" {
		if w*frameHeight > h*frameWidth {
			part := max(1, h*frameWidth/frameHeight)
			cut.Min.X += (w - part) / 2
			cut.Max.X = cut.Min.X + part
		} else {
			part := max(1, w*frameHeight/frameWidth)
			cut.Min.Y += (h - part) / 2
			cut.Max.Y = cut.Min.Y + part
		}
		return cut, min(frameWidth, cut.Dx()), min(frameHeight, cut.Dy())
	}
	if w <= frameWidth && h <= frameHeight {
		return cut, w, h
	}
	width, height = frameWidth, max(1, h*frameWidth/w)
	if height > frameHeight {
		width, height = max(1, w*frameHeight/h), frameHeight
	}
	return cut, min(width, w), min(height, h)
}

// resample makes a part of a picture smaller: whole pixels are averaged first, a line at a time, until less than half is
// left to do. So memory goes with the thumbnail, and not with the picture.
func resample(source image.Image, cut image.Rectangle, width, height int) *image.RGBA {
	across, down := max(1, cut.Dx()/width), max(1, cut.Dy()/height)
	columns, lines := cut.Dx()/across, cut.Dy()/down
	averaged := image.NewRGBA(image.Rect(0, 0, columns, lines))
	line := image.NewRGBA(image.Rect(0, 0, columns*across, 1))
	sums := make([]uint32, 4*columns)
	// The edge that fills no whole pixel is left out on both sides alike.
	from := image.Pt(cut.Min.X+(cut.Dx()-columns*across)/2, cut.Min.Y+(cut.Dy()-lines*down)/2)
	for y := range lines {
		clear(sums)
		for i := range down {
			draw.Draw(line, line.Bounds(), source, from.Add(image.Pt(0, y*down+i)), draw.Src)
			add(sums, line.Pix, across)
		}
		for i, sum := range sums {
			averaged.Pix[y*averaged.Stride+i] = byte(sum / uint32(across*down))
		}
	}
	if columns == width && lines == height {
		return averaged
	}
	small := image.NewRGBA(image.Rect(0, 0, width, height))
	xdraw.ApproxBiLinear.Scale(small, small.Bounds(), averaged, averaged.Bounds(), draw.Src, nil)
	return small
}

// add adds a line's pixels up, so many to one.
func add(sums []uint32, line []byte, across int) {
	for at := 0; at < len(sums); at += 4 {
		sum := sums[at : at+4 : at+4]
		for range across {
			sum[0], sum[1], sum[2], sum[3] = sum[0]+uint32(line[0]), sum[1]+uint32(line[1]), sum[2]+uint32(line[2]), sum[3]+uint32(line[3])
			line = line[4:]
		}
	}
}

// turned gives the picture as EXIF's orientation wants it seen.
func turned(p *image.RGBA, orientation int) *image.RGBA {
	if orientation <= 1 || orientation > 8 {
		return p
	}
	w, h := p.Rect.Dx(), p.Rect.Dy()
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	if orientation >= 5 {
		out = image.NewRGBA(image.Rect(0, 0, h, w))
	}
	for y := range h {
		for x := range w {
			toX, toY := x, y
			switch orientation {
			case 2:
				toX = w - 1 - x
			case 3:
				toX, toY = w-1-x, h-1-y
			case 4:
				toY = h - 1 - y
			case 5:
				toX, toY = y, x
			case 6:
				toX, toY = h-1-y, x
			case 7:
				toX, toY = h-1-y, w-1-x
			case 8:
				toX, toY = y, w-1-x
			}
			copy(out.Pix[out.PixOffset(toX, toY):][:4], p.Pix[p.PixOffset(x, y):][:4])
		}
	}
	return out
}
