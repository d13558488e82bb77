// The part of hanlin._native that compares documents: see hanlin.corpus.dedup, which calls it.
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "comparison_key.hpp"
#include "duplicate_verifier.hpp"
#include "key_file.hpp"
#include "minhash.hpp"
#include "overlap.hpp"
#include "python.hpp"

namespace hanlin {
namespace {

// Appends the comparison keys of texts[begin …]; where it stopped, and at which page that is not defined (-1: the text is refused).
nb::tuple append_comparison_keys(const ComparisonKeyTable& table, const TextBatch& texts, std::size_t begin, TextBatch& out) {
  std::int64_t page = -1;
  {
    nb::gil_scoped_release release;
    for (; begin < texts.size(); ++begin) {
      const ComparisonKeyTable::Outcome outcome = table.append(texts[begin], out.open());
      if (outcome.what == ComparisonKeyTable::Outcome::Undefined) page = outcome.page;
      if (outcome.what != ComparisonKeyTable::Outcome::Mapped) break;
      out.end();
    }
  }
  return nb::make_tuple(begin, page);
}

nb::ndarray<nb::numpy, std::uint64_t, nb::ndim<2>> digests(const TextBatch& texts) {
  std::vector<std::uint64_t> halves;
  halves.reserve(2 * texts.size());
  for (std::size_t index = 0; index < texts.size(); ++index) {
    const Digest digest = digest_of(texts[index]);
    halves.insert(halves.end(), {digest.first, digest.second});
  }
  return to_rows(std::move(halves), 2);
}

nb::ndarray<nb::numpy, std::uint32_t, nb::ndim<2>> signatures(const MinHasher& hasher, const TextBatch& texts) {
  std::vector<std::uint32_t> values;
  {
    nb::gil_scoped_release release;
    values.resize(texts.size() * hasher.values());
    MinHasher::Scratch scratch;
    for (std::size_t index = 0; index < texts.size(); ++index) hasher.sign(texts[index], values.data() + index * hasher.values(), scratch);
  }
  return to_rows(std::move(values), hasher.values());
}

using Signatures = nb::ndarray<const std::uint32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void write_bands(KeyWriter& writer, const Signatures& values, std::size_t rows, std::uint32_t first_document) {
  const nb::gil_scoped_release release;
  for (std::size_t index = 0; index < values.shape(0); ++index) {
    writer.add_bands({values.data() + index * values.shape(1), values.shape(1)}, rows, first_document + static_cast<std::uint32_t>(index));
  }
}

void write_keys(KeyWriter& writer, const Array<std::uint64_t>& keys, const Array<std::uint32_t>& documents) {
  if (keys.size() != documents.size()) throw std::invalid_argument("as many keys as documents");
  const nb::gil_scoped_release release;
  for (std::size_t index = 0; index < keys.size(); ++index) writer.add(keys.data()[index], documents.data()[index]);
}

void visit_pairs(const KeyReader& reader, std::uint64_t first, std::uint64_t last, const Array<std::uint8_t>& gone, Width width, std::size_t most,
                 nb::object visit) {
  const nb::gil_scoped_release release;
  each_pair(reader.read(first, last, {gone.data(), gone.size()}), width, most, [&](std::vector<std::uint64_t>&& pairs) {
    const nb::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    visit(to_numpy(std::move(pairs)));
  });
}

nb::tuple keys_in_common(const KeyReader& reader, std::uint64_t first, std::uint64_t last, std::size_t least) {
  std::vector<std::uint64_t> keys, counts;
  {
    const nb::gil_scoped_release release;
    common_keys(reader.read(first, last, {}), least, keys, counts);
  }
  return nb::make_tuple(to_numpy(std::move(keys)), to_numpy(std::move(counts)));
}

void add_sets(DuplicateVerifier& finder, const Array<std::uint32_t>& documents, const TextBatch& texts) {
  if (documents.size() != texts.size()) throw std::invalid_argument("as many documents as texts");
  const nb::gil_scoped_release release;
  for (std::size_t index = 0; index < texts.size(); ++index) finder.add(documents.data()[index], texts[index]);
}

nb::tuple decide(const DuplicateVerifier& finder, const Array<std::uint64_t>& pairs, std::size_t begin,
                 const nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>& stays) {
  std::vector<DuplicatePair> duplicates;
  std::vector<std::uint32_t> numbers;
  std::vector<float> similarities;
  {
    const nb::gil_scoped_release release;
    begin = finder.decide({pairs.data(), pairs.size()}, begin, {stays.data(), stays.size()}, duplicates);
    for (const DuplicatePair& pair : duplicates) {
      numbers.insert(numbers.end(), {pair.document, pair.keeper});
      similarities.push_back(pair.similarity);
    }
  }
  return nb::make_tuple(begin, to_rows(std::move(numbers), 2), to_numpy(std::move(similarities)));
}

}  // namespace

void bind_duplicates(nb::module_& m) {
  nb::class_<OverlapFinder>(m, "OverlapFinder", "Finds passages of benchmarks' items in texts: see native/overlap.hpp.")
      .def(nb::init<std::size_t>(), "n"_a)
      .def("add", [](OverlapFinder& finder, nb::handle item) { return finder.add(view_of(item)); }, "item"_a, "Make a comparison key the next item; whether it can be found.")
      .def("find", [](OverlapFinder& finder, const TextBatch& texts, std::uint32_t hits, std::uint32_t longest, bool every) {
             nb::list result;
             for (const Overlap& found : finder.find(texts, hits, longest, every)) {
               result.append(nb::make_tuple(found.text, found.item, found.hits, found.longest, found.begin, found.end));
             }
             return result;
           }, "texts"_a, "hits"_a, "longest"_a, "every"_a = false, "(text, item, hits, characters of the longest passage, its first byte, its end) of the first item, or of every one, of which a text has enough.");

  nb::class_<ComparisonKeyTable>(m, "ComparisonKeyTable", "What characters become in comparison keys: see native/comparison_key.hpp.")
      .def(nb::init<>())
      .def("define", &ComparisonKeyTable::define, "page"_a, "mapped"_a, "refused"_a, "Define 256 code points: what each becomes, or that it is refused.")
      .def("append", &append_comparison_keys, "texts"_a, "begin"_a, "out"_a,
           "Append comparison keys from texts[begin] on: (where it stopped, the page that is missing, or -1).");

  m.def("digests", &digests, "texts"_a, "128-bit hashes of texts, (N, 2) uint64.");

  nb::class_<MinHasher>(m, "MinHasher", "Signatures of texts: see native/minhash.hpp.")
      .def(nb::init<std::size_t, std::size_t, std::uint64_t>(), "shingle"_a, "values"_a, "seed"_a)
      .def("__call__", &signatures, "texts"_a, "Signatures, (N, values) uint32.");

  nb::class_<KeyWriter>(m, "KeyWriter", "Writes keys of documents to a file: see native/key_file.hpp.")
      .def(nb::init<std::string, std::size_t>(), "path"_a, "memory"_a)
      .def("add", &write_keys, nb::arg("keys").noconvert(), nb::arg("documents").noconvert(), "Add records; documents ascend.")
      .def("add_bands", &write_bands, nb::arg("signatures").noconvert(), "rows"_a, "first_document"_a, "Add the keys of the bands of signatures.")
      .def("close", &KeyWriter::close, nb::call_guard<nb::gil_scoped_release>(), "Write what waits; the file is whole then.");

  nb::class_<KeyReader>(m, "KeyReader", "Reads the files of key writers as one: see native/key_file.hpp.")
      .def(nb::new_([](const std::vector<std::tuple<std::string, std::uint32_t>>& files) {
             std::vector<KeyReader::File> named;
             for (const auto& [path, first] : files) named.push_back({path, first});
             return std::make_unique<KeyReader>(std::move(named));
           }), "files"_a)
      .def_prop_ro("sizes", [](const KeyReader& reader) { return std::vector<std::uint64_t>(reader.sizes().begin(), reader.sizes().end()); },
                   "Records in each 256th of the keys.")
      .def("pairs", [](const KeyReader& reader, std::uint64_t first, std::uint64_t last, const Array<std::uint8_t>& gone, std::size_t earliest,
                       std::size_t neighbours, std::size_t most, nb::object visit) {
             visit_pairs(reader, first, last, gone, {earliest, neighbours}, most, std::move(visit));
           }, "first"_a, "last"_a, nb::arg("gone").noconvert(), "earliest"_a, "neighbours"_a, "most"_a, "visit"_a,
           "Visit ascending pairs (later << 32 | earlier) of documents that share a key from first to last, about `most` at a time.")
      .def("common", &keys_in_common, "first"_a, "last"_a, "least"_a, "Keys that at least so many documents share, and how many do.");

  nb::class_<DuplicateVerifier>(m, "DuplicateVerifier", "Decides which documents go: see native/duplicate_verifier.hpp.")
      .def(nb::init<std::size_t, double>(), "shingle"_a, "threshold"_a)
      .def("add", &add_sets, nb::arg("documents").noconvert(), "texts"_a, "Have the shingles of documents at hand.")
      .def("clear", &DuplicateVerifier::clear, "Let them go.")
      .def_prop_ro("bytes", &DuplicateVerifier::bytes)
      .def("decide", &decide, nb::arg("pairs").noconvert(), "begin"_a, nb::arg("stays").noconvert(),
           "Decide pairs from `begin` on: (where a document is not at hand, or the end; (K, 2) documents that go and their keepers; similarities).");
}

}  // namespace hanlin
