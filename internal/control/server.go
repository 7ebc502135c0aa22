package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"fairlead"
)

// Config is what a server needs.
type Config struct {
	Backend Backend
	Feed    *Feed        // what /v1/events tells; nil: nothing ever happens
	Log     *slog.Logger // trouble of the HTTP server itself; nil: thrown away
}

// A Server answers on control sockets.
type Server struct {
	backend Backend
	feed    *Feed
	routes  map[string]route
	http    *http.Server
	ending  context.Context // over when event streams have to end
	end     context.CancelFunc
	open    atomic.Int64 // connections
}

// A route is one path: the only method it knows, and what answers.
type route struct {
	method string
	answer func(w http.ResponseWriter, r *http.Request)
}

const (
	headerTime = 5 * time.Second  // for a request's head
	bodyTime   = 10 * time.Second // for its body
	writeTime  = 10 * time.Second // for a reader to take one write
	idleTime   = time.Minute
	maxHeader  = 16 << 10
	maxOpen    = 128 // connections at a time; more are closed at once
)

// New is a server that waits for Serve.
func New(c Config) *Server {
	s := &Server{backend: c.Backend, feed: c.Feed}
	if s.feed == nil {
		s.feed = &Feed{}
	}
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s.ending, s.end = context.WithCancel(context.Background())
	s.routes = map[string]route{
		"/v1/status":  {http.MethodGet, s.status},
		"/v1/conns":   {http.MethodGet, s.conns},
		"/v1/events":  {http.MethodGet, s.events},
		"/v1/version": {http.MethodGet, s.version},
		"/v1/reload":  {http.MethodPost, s.reload},
		"/v1/kill":    {http.MethodPost, s.kill},
	}
	s.http = &http.Server{
		Handler:                      http.HandlerFunc(s.admit),
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            headerTime,
		IdleTimeout:                  idleTime,
		MaxHeaderBytes:               maxHeader,
		ConnState:                    s.count,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, actorKey{}, peer(c))
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	return s
}

// Serve answers on l until Shutdown, and closes it. It returns nil after
// Shutdown, else why l failed. Several listeners may be served at a time.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown closes the listeners, ends event streams, and waits for answers
// under way until ctx is over; then it cuts them.
func (s *Server) Shutdown(ctx context.Context) error {
	s.end()
	err := s.http.Shutdown(ctx)
	if err != nil {
		s.http.Close()
	}
	return err
}

// count keeps a user of the socket from taking all descriptors.
func (s *Server) count(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if s.open.Add(1) > maxOpen {
			c.Close()
		}
	case http.StateClosed:
		s.open.Add(-1)
	}
}

type actorKey struct{}

func actor(r *http.Request) Actor {
	a, _ := r.Context().Value(actorKey{}).(Actor)
	return a
}

// admit turns away what no client of ours sends, and finds the route.
func (s *Server) admit(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.Host != "fairlead" && r.Host != "localhost" {
		// A name that leads here by way of somebody's DNS or proxy.
		refuse(w, http.StatusMisdirectedRequest, "the Host header must be fairlead or localhost")
		return
	}
	for _, browser := range []string{"Origin", "Sec-Fetch-Site"} {
		if len(r.Header.Values(browser)) > 0 {
			refuse(w, http.StatusForbidden, "browsers have no business here (the request has a header "+browser+")")
			return
		}
	}
	route, ok := s.routes[r.URL.EscapedPath()]
	if !ok {
		refuse(w, http.StatusNotFound, "this service does not know that path")
		return
	}
	if r.Method != route.method {
		h.Set("Allow", route.method)
		refuse(w, http.StatusMethodNotAllowed, "this path wants the method "+route.method)
		return
	}
	route.answer(w, r)
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	give(w, http.StatusOK, StatusOf(s.backend.Service(), s.backend.Status()))
}

func (s *Server) conns(w http.ResponseWriter, _ *http.Request) {
	conns := s.backend.Conns()
	now := time.Now()
	j := Conns{SchemaConns, make([]Conn, len(conns))}
	for i, c := range conns {
		j.Connections[i] = ConnOf(c, now)
	}
	give(w, http.StatusOK, j)
}

func (s *Server) version(w http.ResponseWriter, _ *http.Request) {
	v := s.backend.Service()
	give(w, http.StatusOK, Version{SchemaVersion, v.Version, v.PID, instant(v.Started)})
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	var q ReloadRequest
	if !take(w, r, &q) {
		return
	}
	// What was asked for is done as a whole, also when the asker leaves.
	plan, err := s.backend.Reload(context.WithoutCancel(r.Context()), actor(r), q.Dry)
	if err != nil {
		fail(w, err)
		return
	}
	give(w, http.StatusOK, ReloadOf(plan, q.Dry))
}

func (s *Server) kill(w http.ResponseWriter, r *http.Request) {
	var q KillRequest
	if !take(w, r, &q) {
		return
	}
	m := fairlead.Match{ID: q.ID, Forward: q.Forward, Client: q.Client.Unmap()}
	if m == (fairlead.Match{}) {
		refuse(w, http.StatusBadRequest, "a kill needs an id, a forward or a client")
		return
	}
	n, err := s.backend.Kill(context.WithoutCancel(r.Context()), actor(r), m)
	if err == nil && n == 0 {
		err = fairlead.Problemf(fairlead.CodeNoSuchConn, "no live connection matches").
			Fix("list the live connections", "fairlead conns")
	}
	if err != nil {
		fail(w, err)
		return
	}
	give(w, http.StatusOK, Kill{SchemaKill, n})
}

// events streams until the reader leaves, falls too far behind, or the service
// ends.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	reader := s.feed.subscribe()
	if reader == nil {
		refuse(w, http.StatusServiceUnavailable, "too many readers of events")
		return
	}
	defer s.feed.leave(reader)
	stream := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/jsonl")
	w.WriteHeader(http.StatusOK)
	line := json.NewEncoder(w)
	line.SetEscapeHTML(false)
	flush := func() error {
		if err := stream.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
			return err
		}
		return stream.Flush()
	}
	if flush() != nil { // the head says that events are told from here on
		return
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case <-s.ending.Done():
			return
		case e, ok := <-reader.events:
			if stream.SetWriteDeadline(time.Now().Add(writeTime)) != nil {
				return
			}
			if !ok {
				p := fairlead.Problemf(fairlead.CodeAPI, "events came faster than they were read, so some are lost")
				line.Encode(errorOf(p))
				stream.Flush()
				return
			}
			if line.Encode(EventOf(e)) != nil {
				return
			}
			if len(reader.events) == 0 && flush() != nil {
				return
			}
		}
	}
}

// take reads the body of a POST into v, or answers what is wrong with it.
func take(w http.ResponseWriter, r *http.Request, v any) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, "the Content-Type must be application/json")
		return false
	}
	// Only the body may be slow in coming; what is done with it may take longer.
	stream := http.NewResponseController(w)
	stream.SetReadDeadline(time.Now().Add(bodyTime))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	stream.SetReadDeadline(time.Time{})
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		refuse(w, http.StatusRequestEntityTooLarge, "the body has more than 64 KiB")
		return false
	case err != nil:
		refuse(w, http.StatusBadRequest, "the body did not arrive")
		return false
	}
	if err := decode(body, v); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return false
	}
	return true
}

// refuse answers that the request was wrong.
func refuse(w http.ResponseWriter, status int, what string) {
	if len(what) > 300 { // it may quote the request
		what = strings.ToValidUTF8(what[:300], "") + "…"
	}
	give(w, status, errorOf(fairlead.Problemf(fairlead.CodeAPI, "%s", what)))
}

// fail answers that what was asked could not be done.
func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch code := fairlead.AsProblem(err).Code; code {
	case fairlead.CodeNoSuchForward, fairlead.CodeNoSuchConn:
		status = http.StatusNotFound
	case fairlead.CodeNotAllowed:
		status = http.StatusForbidden
	case fairlead.CodeReloadFailed:
		status = http.StatusUnprocessableEntity
	case fairlead.CodeUsage, fairlead.CodeAPI:
		status = http.StatusBadRequest
	default:
		if strings.HasPrefix(string(code), "FL-3") { // sentences and files
			status = http.StatusUnprocessableEntity
		}
	}
	give(w, status, errorOf(err))
}

func errorOf(err error) Error {
	j := Error{Schema: SchemaError, Error: *ProblemOf(fairlead.AsProblem(err))}
	var refusal *Refusal
	if errors.As(err, &refusal) {
		for _, c := range refusal.Causes {
			j.Causes = append(j.Causes, *ProblemOf(c))
		}
	}
	return j
}

// give answers with one document.
func give(w http.ResponseWriter, status int, document any) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // it is no page
	if err := e.Encode(document); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	stream := http.NewResponseController(w)
	stream.SetWriteDeadline(time.Now().Add(writeTime))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(b.Bytes())
}
