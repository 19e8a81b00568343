// Checks a ledger log with the reference code of golang.org/x/mod.
//
//	check_log LOG_FOLDER VERIFIER_KEY COSIGNER_KEY OLD_SIZE POSITION < entry
//
// Opens the checkpoint of OLD_SIZE and the one that is cosigned, proves the old tree a
// prefix of the new and the entry included at POSITION, all from the tiles of the log.
package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
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

// cosigner verifies cosignature/v1 of C2SP tlog-cosignature, a kind that note does not know itself.
type cosigner struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (c cosigner) Name() string    { return c.name }
func (c cosigner) KeyHash() uint32 { return c.hash }
func (c cosigner) Verify(body, signature []byte) bool {
	if len(signature) != 8+ed25519.SignatureSize {
		return false
	}
	message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(signature), body)
	return ed25519.Verify(c.key, []byte(message), signature[8:])
}

func newCosigner(text string) cosigner {
	parts := strings.SplitN(text, "+", 3)
	hash, err := strconv.ParseUint(parts[1], 16, 32)
	must(err)
	key, err := base64.StdEncoding.DecodeString(parts[2])
	must(err)
	return cosigner{parts[0], uint32(hash), key[1:]}
}

// open returns the tree of a note on which every one of the verifiers has signed.
func open(data []byte, verifiers ...note.Verifier) tlog.Tree {
	opened, err := note.Open(data, note.VerifierList(verifiers...))
	must(err)
	if len(opened.Sigs) != len(verifiers) {
		must(fmt.Errorf("%d of %d signatures verify", len(opened.Sigs), len(verifiers)))
	}
	lines := strings.Split(opened.Text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err)
	root, err := base64.StdEncoding.DecodeString(lines[2])
	must(err)
	var hash tlog.Hash
	copy(hash[:], root)
	return tlog.Tree{N: size, Hash: hash}
}

func read(path string) []byte {
	data, err := os.ReadFile(path)
	must(err)
	return data
}

func only(pattern string) string {
	found, err := filepath.Glob(pattern)
	must(err)
	if len(found) != 1 {
		must(fmt.Errorf("%d files are named like %s", len(found), pattern))
	}
	return found[0]
}

func main() {
	folder := os.Args[1]
	verifier, err := note.NewVerifier(os.Args[2])
	must(err)
	oldSize, err := strconv.ParseInt(os.Args[4], 10, 64)
	must(err)
	position, err := strconv.ParseInt(os.Args[5], 10, 64)
	must(err)
	entry, err := io.ReadAll(os.Stdin)
	must(err)

	newest := only(filepath.Join(folder, "cosignature", "*", "*"))
	size := filepath.Base(filepath.Dir(newest))
	cosigned := append(read(filepath.Join(folder, "checkpoint", size)), read(newest)...)
	tree := open(cosigned, verifier, newCosigner(os.Args[3]))
	old := open(read(filepath.Join(folder, "checkpoint", fmt.Sprintf("%016d", oldSize))), verifier)

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
