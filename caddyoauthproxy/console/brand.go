package console

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"html/template"
	"math"
	"regexp"
	"strconv"
	"unicode/utf8"
)

// CheckBrand checks the name on top of each page. The empty one means the default.
func CheckBrand(text string) error {
	switch {
	case utf8.RuneCountInString(text) > 60:
		return errors.New("is longer than 60 characters")
	case !utf8.ValidString(text) || Clean(text, 60) != text:
		return errors.New("must be plain text, without line breaks, control characters, and spaces at its ends")
	}
	return nil
}

// maxLogo bounds the logo, which is sent with every page, in bytes.
const maxLogo = 64 << 10

// embedLogo makes a picture part of the page. A browser runs no script of an SVG picture, and fetches nothing for it.
func embedLogo(raw []byte) (template.URL, error) {
	if raw == nil {
		return "", nil
	}
	var kind string
	switch {
	case len(raw) > maxLogo:
		return "", fmt.Errorf("has %d bytes, more than 64 KiB", len(raw))
	case bytes.HasPrefix(raw, []byte("\x89PNG\r\n\x1a\n")):
		kind = "png"
	case len(raw) > 12 && bytes.HasPrefix(raw, []byte("RIFF")) && string(raw[8:12]) == "WEBP":
		kind = "webp"
	case isSVG(raw):
		kind = "svg+xml"
	default:
		return "", errors.New("is no SVG, PNG or WebP picture")
	}
	return template.URL("data:image/" + kind + ";base64," + base64.StdEncoding.EncodeToString(raw)), nil //nolint:gosec // letters and digits
}

// isSVG reports whether the first element is that of an SVG picture.
func isSVG(raw []byte) bool {
	d := xml.NewDecoder(bytes.NewReader(raw))
	for {
		token, err := d.Token()
		if err != nil {
			return false
		}
		if start, ok := token.(xml.StartElement); ok {
			return start.Name.Local == "svg" && start.Name.Space == "http://www.w3.org/2000/svg"
		}
	}
}

// color is one of sRGB, each part 0 to 255.
type color [3]uint8

var hexColor = regexp.MustCompile(`^#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})$`)

// CheckAccent checks a colour. The empty one means the default.
func CheckAccent(text string) error {
	if text == "" {
		return nil
	}
	_, err := parseColor(text)
	return err
}

func parseColor(text string) (color, error) {
	m := hexColor.FindStringSubmatch(text)
	if m == nil {
		return color{}, fmt.Errorf("%q is no colour such as 1f5fbf or #1f5fbf", text)
	}
	var c color
	for i := range c {
		v, err := strconv.ParseUint(m[i+1], 16, 8)
		if err != nil {
			return color{}, err
		}
		c[i] = uint8(v)
	}
	return c, nil
}

func (c color) String() string { return fmt.Sprintf("#%02x%02x%02x", c[0], c[1], c[2]) }

// luminance is the relative luminance of WCAG 2.2.
func (c color) luminance() float64 {
	part := func(v uint8) float64 {
		x := float64(v) / 255
		if x <= 0.04045 {
			return x / 12.92
		}
		return math.Pow((x+0.055)/1.055, 2.4)
	}
	return 0.2126*part(c[0]) + 0.7152*part(c[1]) + 0.0722*part(c[2])
}

// contrast is the contrast ratio of WCAG 2.2: 1 to 21, of which text needs 4.5.
func contrast(a, b color) float64 {
	x, y := a.luminance(), b.luminance()
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// on is what can be read on a colour: black or white. One of the two always has enough contrast.
func (c color) on() color {
	black, white := color{}, color{255, 255, 255}
	if contrast(c, white) >= contrast(c, black) {
		return white
	}
	return black
}

// readable moves a colour towards another, until it can be read on all of these papers.
func (c color) readable(towards color, papers ...color) color {
	for step := 0; step <= 20; step++ {
		mixed, enough := c, true
		for i := range mixed {
			mixed[i] = uint8(math.Round(float64(c[i]) + (float64(towards[i])-float64(c[i]))*float64(step)/20))
		}
		for _, paper := range papers {
			enough = enough && contrast(mixed, paper) >= 4.6
		}
		if enough {
			return mixed
		}
	}
	return towards
}

// The papers of style.css that links stand on: page, card, and what lies under the pointer.
var (
	lightPapers = []color{{0xf6, 0xf5, 0xf2}, {0xff, 0xff, 0xff}, {0xed, 0xeb, 0xe6}}
	darkPapers  = []color{{0x15, 0x18, 0x1b}, {0x1e, 0x22, 0x26}, {0x27, 0x2c, 0x31}}
)

// accentStyle is what an accent colour adds to the style.
func accentStyle(light, dark string) (string, error) {
	if light == "" && dark == "" {
		return "", nil
	}
	if light == "" {
		return "", errors.New("the colour for dark paper stands behind the one for light paper")
	}
	l, err := parseColor(light)
	if err != nil {
		return "", err
	}
	d := l
	if dark != "" {
		if d, err = parseColor(dark); err != nil {
			return "", err
		}
	}
	const vars = ":root { --accent: %s; --on-accent: %s; --link: %s; }\n"
	return fmt.Sprintf(vars, l, l.on(), l.readable(color{}, lightPapers...)) +
		"@media (prefers-color-scheme: dark) {\n" + fmt.Sprintf(vars, d, d.on(), d.readable(color{255, 255, 255}, darkPapers...)) + "}\n", nil
}
