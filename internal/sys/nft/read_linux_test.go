package nft

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"fairlead/internal/lab"
)

// opened is a connection to the host's nftables.
func opened(t *testing.T, h *lab.Host) *Conn {
	t.Helper()
	var c *Conn
	err := h.Do(func() (err error) {
		c, err = Open()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestWhatIsNotThereIsNil(t *testing.T) {
	h := lab.NewNet(t).Host("one")
	c := opened(t, h)
	if table, err := c.Read(Inet, "none"); table != nil || err != nil {
		t.Errorf("a table that is not there: %v, %v", table, err)
	}
	if all, err := c.ReadAll(0); len(all) != 0 || err != nil {
		t.Errorf("no tables: %v, %v", all, err)
	}
	if list, err := c.Tables(); len(list) != 0 || err != nil {
		t.Errorf("no tables: %v, %v", list, err)
	}
	if _, err := c.ReadSet(Inet, "none", "none"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a set of no table: %v", err)
	}
	nftRun(t, h, "table inet t { }", "-f", "-")
	if _, err := c.ReadSet(Inet, "t", "none"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a set that is not there: %v", err)
	}
}

func TestSetsAreReadBack(t *testing.T) {
	h := lab.NewNet(t).Host("one")
	want := everyForm()
	nftRun(t, h, want.Text(), "-f", "-")
	c := opened(t, h)
	got, err := c.Read(Inet, want.Name)
	if err != nil {
		t.Fatal(err)
	}
	compareSets(t, got, want)
	for i := range want.Sets {
		s, err := c.ReadSet(Inet, want.Name, want.Sets[i].Name)
		if err != nil {
			t.Fatal(err)
		}
		compareSets(t, &Table{Sets: []Set{*s}}, &Table{Sets: want.Sets[i : i+1]})
	}
}

func TestRulesThatNftLoadsAreReadAsTheyWereMeant(t *testing.T) {
	h := lab.NewNet(t).Host("one")
	want := everyForm()
	nftRun(t, h, want.Text(), "-f", "-")
	got, err := opened(t, h).Read(Inet, want.Name)
	if err != nil {
		t.Fatal(err)
	}
	compareRules(t, got, want)
	if got.Family != want.Family || got.Name != want.Name || got.Owned {
		t.Errorf("read table %v %s, owned %v", got.Family, got.Name, got.Owned)
	}
}
