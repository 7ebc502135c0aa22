package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"

	"fairlead"
)

// A Client asks the service at one control socket. It keeps no connection
// between calls and needs no closing. Its methods may be called concurrently;
// how long a call may take is its context's to say. Their errors are Problems
// (CodeNoService, CodeNotAllowed, what the service answered), or a *Refusal
// around one.
type Client struct {
	path string
	http *http.Client
}

// What a client reads at most, of one answer (some 200,000 connections) and of
// one event.
const (
	maxAnswer = 64 << 20
	maxLine   = 1 << 20
)

// Dial is a client for the socket at path. It does not connect yet.
func Dial(path string) *Client {
	return &Client{path, &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", path)
			},
			DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the service tried to send us elsewhere")
		},
	}}
}

// Status is how the service and its forwards stand.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return call[Status](ctx, c, "GET", "/v1/status", nil, SchemaStatus)
}

// Conns are the live connections.
func (c *Client) Conns(ctx context.Context) (*Conns, error) {
	return call[Conns](ctx, c, "GET", "/v1/conns", nil, SchemaConns)
}

// Version is who answers.
func (c *Client) Version(ctx context.Context) (*Version, error) {
	return call[Version](ctx, c, "GET", "/v1/version", nil, SchemaVersion)
}

// Reload has the service read its file again; dry: it only says what that
// would change. A file with errors is a *Refusal that lists them.
func (c *Client) Reload(ctx context.Context, dry bool) (*Reload, error) {
	return call[Reload](ctx, c, "POST", "/v1/reload", ReloadRequest{Dry: dry}, SchemaReload)
}

// Kill ends the connections that m selects and says how many there were. When
// there were none, it is a Problem with CodeNoSuchConn.
func (c *Client) Kill(ctx context.Context, m fairlead.Match) (int, error) {
	k, err := call[Kill](ctx, c, "POST", "/v1/kill", KillRequest{m.ID, m.Forward, m.Client}, SchemaKill)
	if err != nil {
		return 0, err
	}
	return k.Killed, nil
}

// Events calls do with each event, one after the other, until ctx ends (then
// it returns nil), the service ends (nil as well), or do was so slow that
// events were lost.
func (c *Client) Events(ctx context.Context, do func(Event)) error {
	resp, err := c.send(ctx, "GET", "/v1/events", nil)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var e Event // the error of an Error document stands where an event's does
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return c.strange("%v", err)
		}
		switch {
		case e.Schema == SchemaEvent:
			do(e)
		case e.Schema == SchemaError && e.Error != nil:
			return e.Error.Problem()
		default:
			return c.strange("a line of %q among events", e.Schema)
		}
	}
	if err := lines.Err(); err != nil && ctx.Err() == nil {
		return c.broken(err)
	}
	return nil
}

// call asks and reads the one document of the answer.
func call[T any](ctx context.Context, c *Client, method, path string, body any, schema string) (*T, error) {
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := c.read(resp)
	if err != nil {
		return nil, err
	}
	var head struct {
		Schema string `json:"schema"`
	}
	if err := json.Unmarshal(raw, &head); err != nil || head.Schema != schema {
		return nil, c.strange("%q where %q was expected", head.Schema, schema)
	}
	document := new(T)
	if err := json.Unmarshal(raw, document); err != nil {
		return nil, c.strange("%v", err)
	}
	return document, nil
}

// send asks and returns the answer when it is a good one; the caller closes
// its body.
func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, c.strange("%v", err)
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://fairlead"+path, r)
	if err != nil {
		return nil, c.strange("%v", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	raw, err := c.read(resp)
	if err != nil {
		return nil, err
	}
	var j Error
	if json.Unmarshal(raw, &j) != nil || j.Schema != SchemaError || j.Error.Text == "" {
		return nil, c.strange("HTTP status %s without a reason", resp.Status)
	}
	if len(j.Causes) == 0 {
		return nil, j.Error.Problem()
	}
	refusal := &Refusal{Problem: j.Error.Problem()}
	for _, cause := range j.Causes {
		refusal.Causes = append(refusal.Causes, cause.Problem())
	}
	return nil, refusal
}

func (c *Client) read(resp *http.Response) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, c.broken(err)
	}
	if len(raw) > maxAnswer {
		return nil, c.strange("more than %d MiB", maxAnswer>>20)
	}
	return raw, nil
}

// unreachable says why nobody answered.
func (c *Client) unreachable(err error) *fairlead.Problem {
	var p *fairlead.Problem
	switch {
	case errors.Is(err, fs.ErrPermission):
		p = fairlead.Problemf(fairlead.CodeNotAllowed, "this user may not use the control socket %s", c.path).
			Fix("run the command as root", "sudo fairlead …").
			Fix("join the group of the socket, and log in again", "sudo usermod -aG fairlead $USER")
	case errors.Is(err, fs.ErrNotExist), nobodyListens(err):
		p = fairlead.Problemf(fairlead.CodeNoService, "no service answers at %s", c.path).
			Fix("start the service here", "fairlead up").
			Fix("start the installed service", "sudo systemctl start fairlead").
			Fix("name the socket of another service", "--socket PATH")
	case errors.Is(err, context.DeadlineExceeded):
		p = fairlead.Problemf(fairlead.CodeNoService, "the service at %s did not answer in time", c.path)
	case errors.Is(err, context.Canceled):
		p = fairlead.Problemf(fairlead.CodeNoService, "the question to the service at %s was given up", c.path)
	default:
		p = fairlead.Problemf(fairlead.CodeNoService, "cannot ask the service at %s", c.path)
	}
	p.Err = err
	return p.Note("why", "%s", plain(err))
}

// broken says that an answer began and did not end.
func (c *Client) broken(err error) *fairlead.Problem {
	p := fairlead.Problemf(fairlead.CodeNoService, "the service at %s went away while it answered", c.path)
	p.Err = err
	return p.Note("why", "%s", plain(err))
}

// strange says that the answer is none that we understand.
func (c *Client) strange(format string, args ...any) *fairlead.Problem {
	return fairlead.Problemf(fairlead.CodeAPI, "the service at %s gave an answer that this command does not understand", c.path).
		Note("why", "it sent %s", strings.ToValidUTF8(fmt.Sprintf(format, args...), "?")).
		Fix("compare the versions of the command and of the service", "fairlead version")
}

// plain is the innermost words of an error: package http adds a method and a
// URL that mean nothing here.
func plain(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	return cause(err).Error()
}
