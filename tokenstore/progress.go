package tokenstore

// Step is what work that takes long is about at the moment, such as copying.
type Step string

// Progress is how far work that takes long is.
type Progress struct {
	Step Step `json:"step"`

	// Kind is which rows are gone through, if it is one kind at a time, and Done how many of Total.
	Kind  Kind `json:"kind,omitempty"`
	Done  int  `json:"done"`
	Total int  `json:"total"`
}
