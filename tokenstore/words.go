package tokenstore

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// maxWords bounds by how many words a grant is found: the rest of its references is for other things.
const maxWords = 22

// wordSize is the size of a word's hash in a reference, of 66 bits: two words of one vault are hardly ever the same by chance.
const wordSize = 11

// purposeWord is that of the hashes of words that records are found by.
const purposeWord Purpose = "word"

// refWord is the reference of records that are found by a word. Only a holder of the vault's keys can make it, or can say of which word it is.
func (v *Vault) refWord(word string) string { return "word:" + v.Hash(purposeWord, word)[:wordSize] }

// Words takes a text apart into what records are found by, small and large letters alike: what stands between spaces, commas and brackets, without
// punctuation around it. An e-mail address, a domain and a name with a hyphen are one word each.
func Words(text string) []string {
	text = strings.ToLower(strings.ToUpper(norm.NFKC.String(text)))
	var words []string
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`,;()[]{}<>"|/`, r) }) {
		word = strings.TrimFunc(word, func(r rune) bool { return !wordRune(r) })
		if word != "" && !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	return words
}

func wordRune(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r) }

// words are those that a grant is found by: of what is shown of its user and its client, whole, and then the parts of it, but not those of a domain, which nobody looks
// for, nor single letters. Each takes room in the index of the store. An e-mail address that the provider does not vouch for is not shown.
func (g *Grant) words() []string {
	var words []string
	add := func(more ...string) {
		for _, word := range more {
			if len(words) < maxWords && !slices.Contains(words, word) {
				words = append(words, word)
			}
		}
	}
	var domains []string
	email := Words(g.User.VerifiedEmail())
	add(email...)
	for _, address := range email {
		if local, domain, ok := strings.Cut(address, "@"); ok {
			add(Words(local)...)
			domains = append(domains, Words(domain)...)
			add(domains...)
		}
	}
	for _, text := range []string{g.User.Login, g.User.Name, g.Client, g.User.Label()} {
		add(Words(text)...)
	}
	for _, word := range slices.Clone(words) {
		if slices.Contains(domains, word) {
			continue
		}
		name, _, _ := strings.Cut(word, "@")
		for part := range strings.FieldsFuncSeq(name, func(r rune) bool { return !wordRune(r) }) {
			if utf8.RuneCountInString(part) > 1 {
				add(part)
			}
		}
	}
	return words
}
