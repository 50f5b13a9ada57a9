package provider

import (
	"crypto/rand"
	"crypto/subtle"
	"html/template"
	"net/http"
	"strings"
	"time"
)

// sessionCookie remembers who is logged in at the provider, so that the next login is one redirect.
const sessionCookie = "demo_provider_session"

var loginPage = template.Must(template.New("login").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Demo provider</title><style>
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:22rem;margin:12vh auto;padding:0 1rem}
label{display:block;margin:1rem 0 .25rem}input{font:inherit;width:100%;padding:.5rem;box-sizing:border-box}
button{font:inherit;margin-top:1.5rem;padding:.5rem 1.5rem}p[role=alert]{color:#c0362c}</style></head>
<body><h1>Demo provider</h1><p>Log in to your account.</p>
{{with .Problem}}<p role="alert">{{.}}</p>{{end}}
<form method="post" action="/login"><input type="hidden" name="id" value="{{.ID}}">
<label for="username">Username</label><input id="username" name="username" autocomplete="username" autofocus required>
<label for="password">Password</label><input id="password" name="password" type="password" autocomplete="current-password" required>
<button type="submit">Log in</button></form></body></html>
`))

type loginData struct{ ID, Problem string }

func (p *Provider) showLogin(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("id")
	if c, err := r.Cookie(sessionCookie); err == nil {
		if user, ok := p.store.session(c.Value); ok && !p.store.mustAsk(id) && p.store.finish(id, user) {
			http.Redirect(w, r, p.callback(r, id), http.StatusSeeOther) //nolint:gosec // a path of our own
			return
		}
	}
	_ = loginPage.Execute(w, loginData{ID: id})
}

func (p *Provider) answerLogin(w http.ResponseWriter, r *http.Request) {
	id, name := r.PostFormValue("id"), strings.TrimSpace(r.PostFormValue("username"))
	for _, u := range p.options.Users {
		if u.Name != name || subtle.ConstantTimeCompare([]byte(u.Password), []byte(r.PostFormValue("password"))) != 1 {
			continue
		}
		if !p.store.finish(id, u.Name) {
			http.Error(w, "this login has expired; start again", http.StatusBadRequest)
			return
		}
		session := rand.Text()
		p.store.openSession(session, u.Name)
		http.SetCookie(w, &http.Cookie{Name: sessionCookie, Value: session, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: int(time.Hour / time.Second)}) //nolint:gosec // it runs on loopback, without https
		http.Redirect(w, r, p.callback(r, id), http.StatusSeeOther)                                                                                                           //nolint:gosec // a path of our own
		return
	}
	w.WriteHeader(http.StatusUnauthorized)
	_ = loginPage.Execute(w, loginData{ID: id, Problem: "Username or password is wrong."})
}
