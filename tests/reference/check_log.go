// Checks a ledger log with the reference code of golang.org/x/mod.
//
//	check_log LOG_FOLDER VERIFIER_KEY OLD_SIZE POSITION < entry
//
// Opens the checkpoint of OLD_SIZE and the newest one, proves the old tree a prefix of the new and
// the entry included at POSITION, all from the tiles of the log.
package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// tiles reads tiles where tlog-tiles puts them: the reference code adds the height to the path.
type tiles struct{ folder string }

func (t tiles) Height() int                        { return 8 }
func (t tiles) SaveTiles([]tlog.Tile, [][]byte)    {}
func (t tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range wanted {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		data, err := os.ReadFile(filepath.Join(t.folder, path))
		if err != nil {
			return nil, err
		}
		found = append(found, data)
	}
	return found, nil
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func open(path string, verifier note.Verifier) tlog.Tree {
	data, err := os.ReadFile(path)
	must(err)
	opened, err := note.Open(data, note.VerifierList(verifier))
	must(err)
	lines := strings.Split(opened.Text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err)
	root, err := base64.StdEncoding.DecodeString(lines[2])
	must(err)
	var hash tlog.Hash
	copy(hash[:], root)
	return tlog.Tree{N: size, Hash: hash}
}

func main() {
	folder := os.Args[1]
	verifier, err := note.NewVerifier(os.Args[2])
	must(err)
	oldSize, err := strconv.ParseInt(os.Args[3], 10, 64)
	must(err)
	position, err := strconv.ParseInt(os.Args[4], 10, 64)
	must(err)
	entry, err := io.ReadAll(os.Stdin)
	must(err)

	checkpoints, err := filepath.Glob(filepath.Join(folder, "checkpoint", "*"))
	must(err)
	sort.Strings(checkpoints)
	tree := open(checkpoints[len(checkpoints)-1], verifier)
	old := open(filepath.Join(folder, "checkpoint", fmt.Sprintf("%016d", oldSize)), verifier)

	reader := tlog.TileHashReader(tree, tiles{folder})
	treeProof, err := tlog.ProveTree(tree.N, old.N, reader)
	must(err)
	must(tlog.CheckTree(treeProof, tree.N, tree.Hash, old.N, old.Hash))
	recordProof, err := tlog.ProveRecord(tree.N, position, reader)
	must(err)
	must(tlog.CheckRecord(recordProof, tree.N, tree.Hash, position, tlog.RecordHash(entry)))
	for _, hash := range treeProof {
		fmt.Println(base64.StdEncoding.EncodeToString(hash[:]))
	}
}
