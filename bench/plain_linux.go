package main

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// plainTCP is the forwarder that everybody writes first: two goroutines with
// io.Copy for each connection.
func plainTCP(listen, to string) error {
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go plainPair(c.(*net.TCPConn), to)
	}
}

func plainPair(c *net.TCPConn, to string) {
	defer c.Close()
	d, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer d.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(c, d)
		c.CloseWrite()
	}()
	io.Copy(d, c)
	d.(*net.TCPConn).CloseWrite()
	<-done
}

// plainUDP has a connected socket and a goroutine for each client, until the
// target has not answered for a while.
func plainUDP(listen, to string) error {
	at, err := net.ResolveUDPAddr("udp", listen)
	if err != nil {
		return err
	}
	target, err := net.ResolveUDPAddr("udp", to)
	if err != nil {
		return err
	}
	c, err := net.ListenUDP("udp", at)
	if err != nil {
		return err
	}
	var mu sync.Mutex // guards sessions
	sessions := map[netip.AddrPort]*net.UDPConn{}
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		mu.Lock()
		s := sessions[from]
		if s == nil {
			if s, err = net.DialUDP("udp", nil, target); err != nil {
				mu.Unlock()
				continue
			}
			sessions[from] = s
			go func() {
				plainReplies(s, c, from)
				mu.Lock()
				delete(sessions, from)
				mu.Unlock()
				s.Close()
			}()
		}
		mu.Unlock()
		s.Write(buf[:n])
	}
}

func plainReplies(s, c *net.UDPConn, to netip.AddrPort) {
	buf := make([]byte, 2048)
	for {
		s.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := s.Read(buf)
		if err != nil {
			return
		}
		c.WriteToUDPAddrPort(buf[:n], to)
	}
}
