// gocheck asks golang.org/x/mod/sumdb, the code behind Go's checksum database, about our log.
//
// It reads one question as JSON and prints one answer, {"refused": ""} if all holds. It opens
// the checkpoint, generates proofs from the tiles in a folder, and checks those and ours.
package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type inclusion struct {
	Index  int64
	Hashes [][]byte
	Entry  []byte
}

type older struct {
	Size   int64
	Root   []byte
	Hashes [][]byte
}

type question struct {
	Folder     string
	Key        string
	Inclusions []inclusion
	Olds       []older
}

type answer struct {
	Refused     string `json:"refused"`
	Size        int64  `json:"size"`
	Inclusion   int    `json:"inclusion"`   // proofs of inclusion that were generated and checked
	Consistency int    `json:"consistency"` // and of consistency
}

// folder reads tiles as c2sp.org/tlog-tiles lays them out: the path of x/mod without the height.
type folder string

func (f folder) path(tile tlog.Tile) string {
	return filepath.Join(string(f), strings.Replace(tile.Path(), "tile/8/", "tile/", 1))
}

func (f folder) Height() int { return 8 }

func (f folder) SaveTiles([]tlog.Tile, [][]byte) {}

func (f folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var read [][]byte
	for _, tile := range tiles {
		data, err := os.ReadFile(f.path(tile))
		if err != nil {
			return nil, err
		}
		read = append(read, data)
	}
	return read, nil
}

// entries reads the bundle of entries that begins at 256*number, whole or partial.
func (f folder) entries(number, size int64) ([][]byte, error) {
	width := size - 256*number
	if width > 256 {
		width = 256
	}
	tile := tlog.Tile{H: 8, L: -1, N: number, W: int(width)}
	path := strings.Replace(tile.Path(), "tile/8/data/", "tile/entries/", 1)
	data, err := os.ReadFile(filepath.Join(string(f), path))
	if err != nil {
		return nil, err
	}
	var found [][]byte
	for len(data) > 0 {
		if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
			return nil, fmt.Errorf("bundle %d is cut short", number)
		}
		end := 2 + int(binary.BigEndian.Uint16(data))
		found = append(found, data[2:end])
		data = data[end:]
	}
	if int64(len(found)) != width {
		return nil, fmt.Errorf("bundle %d holds %d entries and not %d", number, len(found), width)
	}
	return found, nil
}

func hashes(list [][]byte) ([]tlog.Hash, error) {
	found := []tlog.Hash{}
	for _, item := range list {
		hash, err := hashed(item)
		if err != nil {
			return nil, err
		}
		found = append(found, hash)
	}
	return found, nil
}

func hashed(item []byte) (hash tlog.Hash, err error) {
	if len(item) != len(hash) {
		return hash, fmt.Errorf("a hash has %d bytes", len(item))
	}
	copy(hash[:], item)
	return hash, nil
}

func check(asked question) (told answer, err error) {
	verifier, err := note.NewVerifier(asked.Key)
	if err != nil {
		return told, err
	}
	signed, err := os.ReadFile(filepath.Join(asked.Folder, "checkpoint"))
	if err != nil {
		return told, err
	}
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return told, err
	}
	origin, rest, _ := strings.Cut(opened.Text, "\n")
	if origin != verifier.Name() {
		return told, fmt.Errorf("the checkpoint is that of %q", origin)
	}
	// x/mod knows one origin, its own.
	tree, err := tlog.ParseTree([]byte("go.sum database tree\n" + rest))
	if err != nil {
		return told, err
	}
	told.Size = tree.N
	tiles := folder(asked.Folder)
	reader := tlog.TileHashReader(tree, tiles)

	// Every entry, or of a large log some, from the tiles.
	step := int64(1)
	if tree.N > 1000 {
		step = 997
	}
	for start := int64(0); start < tree.N; start += 256 {
		bodies, err := tiles.entries(start/256, tree.N)
		if err != nil {
			return told, err
		}
		for offset, body := range bodies {
			index := start + int64(offset)
			if index%step != 0 && index != tree.N-1 {
				continue
			}
			proof, err := tlog.ProveRecord(tree.N, index, reader)
			if err != nil {
				return told, err
			}
			if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(body)); err != nil {
				return told, fmt.Errorf("entry %d: %w", index, err)
			}
			told.Inclusion++
		}
	}
	for _, given := range asked.Inclusions {
		proof, err := hashes(given.Hashes)
		if err != nil {
			return told, err
		}
		leaf := tlog.RecordHash(given.Entry)
		if err := tlog.CheckRecord(tlog.RecordProof(proof), tree.N, tree.Hash, given.Index, leaf); err != nil {
			return told, fmt.Errorf("our proof of entry %d: %w", given.Index, err)
		}
	}
	for _, old := range asked.Olds {
		root, err := hashed(old.Root)
		if err != nil {
			return told, err
		}
		generated, err := tlog.ProveTree(tree.N, old.Size, reader)
		if err != nil {
			return told, err
		}
		if err := tlog.CheckTree(generated, tree.N, tree.Hash, old.Size, root); err != nil {
			return told, fmt.Errorf("the tree of %d: %w", old.Size, err)
		}
		told.Consistency++
		proof, err := hashes(old.Hashes)
		if err != nil {
			return told, err
		}
		if err := tlog.CheckTree(tlog.TreeProof(proof), tree.N, tree.Hash, old.Size, root); err != nil {
			return told, fmt.Errorf("our proof from %d: %w", old.Size, err)
		}
	}
	return told, nil
}

func main() {
	var asked question
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	told, err := check(asked)
	if err != nil {
		told.Refused = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
		os.Exit(2)
	}
}
