package config

import (
	"bytes"
	"fmt"
	"testing"
)

// tenThousand is a file as a program would write it, with the modifiers that
// are usual.
func tenThousand() []byte {
	var b bytes.Buffer
	b.WriteString("wan eth0\nplace jump ssh ops@jump.example.net\n\n")
	for i := range 10_000 {
		switch i % 5 {
		case 0:
			fmt.Fprintf(&b, "fwd-%d: forward 127.0.0.%d:%d to 10.0.%d.%d:80 idle 5m\n", i, 2+i%50, 10000+i, i>>8, i&255)
		case 1:
			fmt.Fprintf(&b, "nat-%d: nat wan:%d/tcp+udp to 192.168.1.20 from 203.0.113.0/24\n", i, 10000+i)
		case 2:
			fmt.Fprintf(&b, "v6-%d: forward [2001:db8::%x]:443 to db-a.example.net:5432, db-b.example.net:5432 policy failover check tcp every 5s\n", i, i)
		case 3:
			fmt.Fprintf(&b, "loc-%d: local %d to db%d.internal:5432 via jump   # the database\n", i, 10000+i, i)
		case 4:
			fmt.Fprintf(&b, "udp-%d: forward :%d/udp to 9.9.9.9:53 {\n    max-conns 100\n    idle 30s\n}\n", i, 10000+i)
		}
	}
	return b.Bytes()
}

func BenchmarkParse10000(b *testing.B) {
	text := tenThousand()
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		file, problems := Parse("fairlead.conf", text)
		if len(problems) > 0 || len(file.Forwards) != 10_000 {
			b.Fatal(len(file.Forwards), problems[0])
		}
	}
}
