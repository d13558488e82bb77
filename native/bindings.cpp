// The Python module hanlin._native: a thin skin over the core. Long work runs without the GIL; C++ exceptions become ValueError,
// OverflowError or MemoryError with their message.
#include <nanobind/stl/function.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <stdexcept>
#include <utility>

#include "counter.hpp"
#include "encoder.hpp"
#include "json_lines.hpp"
#include "key_file.hpp"
#include "minhash.hpp"
#include "overlap.hpp"
#include "python.hpp"
#include "reachability.hpp"
#include "scanner.hpp"
#include "skeleton.hpp"
#include "trainer.hpp"
#include "twins.hpp"
#include "vocabulary.hpp"

namespace hanlin {
namespace {

template <typename Counter>
void count_batch(Counter& counter, const TextBatch& texts) {
  for (std::size_t index = 0; index < texts.size(); ++index) counter.add(texts[index]);
}

template <typename Counter>
void count_texts(Counter& counter, nb::sequence texts) {
  const Texts items(texts);
  nb::gil_scoped_release release;
  for (const std::string_view text : items.views) counter.add(text);
}

nb::list counted_words(const PretokenCounter& counter) {
  nb::list result;
  for (const Word& word : counter.words()) result.append(nb::make_tuple(to_bytes(word.bytes), word.count));
  return result;
}

// Reports to Python, if it wants to know, and lets Ctrl-C through.
TrainProgress report_to(nb::object progress) {
  return [progress](std::size_t learnt) {
    nb::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    if (!progress.is_none()) progress(learnt);
  };
}

nb::list to_list(const std::vector<LearntMerge>& merges) {
  nb::list result;
  for (const LearntMerge& merge : merges) result.append(nb::make_tuple(to_bytes(merge.left), to_bytes(merge.right), merge.count));
  return result;
}

nb::tuple train_from_pieces(PieceCounter& counter, std::size_t new_tokens, std::int64_t min_frequency, std::size_t max_characters, nb::object progress,
                            std::size_t threads, std::size_t places_at_once) {
  const TrainProgress report = report_to(progress);
  PieceTraining training;
  {
    nb::gil_scoped_release release;
    training = train_pieces(counter, {new_tokens, min_frequency, max_characters, true, threads, places_at_once}, report);
  }
  return nb::make_tuple(to_list(training.merges), training.least, training.complete);
}

nb::list train_merges(const PretokenCounter& counter, std::size_t new_tokens, std::int64_t min_frequency, std::size_t max_characters, bool aligned,
                      nb::object progress) {
  const TrainProgress report = report_to(progress);
  std::vector<LearntMerge> merges;
  {
    nb::gil_scoped_release release;
    merges = train(counter.words_by_count(), {new_tokens, min_frequency, max_characters, aligned}, report);
  }
  return to_list(merges);
}

nb::list train_plain_merges(PretokenCounter& counter, std::size_t new_tokens, std::int64_t min_frequency, std::size_t max_characters, nb::object progress,
                            std::size_t threads, std::size_t places_at_once) {
  const TrainProgress report = report_to(progress);
  std::vector<LearntMerge> merges;
  {
    nb::gil_scoped_release release;
    merges = train_plain(counter, {new_tokens, min_frequency, max_characters, false, threads, places_at_once}, report);
  }
  return to_list(merges);
}

nb::list pretokens(nb::handle text) {
  Scanner scanner(view_of(text));
  nb::list result;
  for (std::string_view word = scanner.next(); !word.empty(); word = scanner.next()) result.append(to_bytes(word));
  return result;
}

std::unique_ptr<Encoder> make_encoder(nb::sequence tokens, std::size_t ordinary, const std::vector<std::tuple<Id, Id, Id>>& merges) {
  std::vector<std::string> spellings;
  for (nb::handle token : tokens) spellings.emplace_back(view_of(token));
  std::vector<Merge> ranked;
  ranked.reserve(merges.size());
  for (const auto& [left, right, result] : merges) ranked.push_back({left, right, result});
  return std::make_unique<Encoder>(std::move(spellings), ordinary, std::move(ranked));
}

nb::tuple vocabulary_of_json(nb::bytes json) {
  const std::string_view document(json.c_str(), json.size());
  auto vocabulary = std::make_unique<Vocabulary>();
  std::string rest;
  {
    nb::gil_scoped_release release;
    *vocabulary = read_vocabulary(document, rest);
  }
  return nb::make_tuple(std::move(vocabulary), to_bytes(rest));
}

nb::list spellings(const Vocabulary& vocabulary) {
  nb::list result;
  for (const std::string& token : vocabulary.tokens) result.append(to_bytes(token));
  return result;
}

nb::list ranked_merges(const Vocabulary& vocabulary) {
  nb::list result;
  for (const Merge& merge : vocabulary.merges) result.append(nb::make_tuple(merge.left, merge.right, merge.result));
  return result;
}

std::unique_ptr<Encoder> encoder_of(const Vocabulary& vocabulary, nb::sequence control) {
  std::vector<std::string> tokens = vocabulary.tokens;
  for (nb::handle name : control) tokens.emplace_back(view_of(name));
  return std::make_unique<Encoder>(std::move(tokens), vocabulary.tokens.size(), vocabulary.merges);
}

nb::list encode_text(const Encoder& encoder, nb::handle text) {
  const std::string_view bytes = view_of(text);
  Ids ids;
  {
    nb::gil_scoped_release release;
    Encoder::Scratch scratch;
    encoder.encode(bytes, ids, scratch);
  }
  // By hand: appending one by one takes longer than the encoding.
  PyObject* list = PyList_New(static_cast<Py_ssize_t>(ids.size()));
  if (list == nullptr) throw nb::python_error();
  nb::list result = nb::steal<nb::list>(list);
  for (std::size_t index = 0; index < ids.size(); ++index) {
    PyObject* id = PyLong_FromUnsignedLong(ids[index]);
    if (id == nullptr || PyList_SetItem(list, static_cast<Py_ssize_t>(index), id) != 0) throw nb::python_error();
  }
  return result;
}

// Ids of texts, behind one another, and where each text's begin.
struct Encoded {
  Ids ids;
  std::vector<std::uint64_t> offsets{0};
  Encoder::Scratch scratch;

  void add(const Encoder& encoder, const TextBatch& texts) {
    nb::gil_scoped_release release;
    for (std::size_t index = 0; index < texts.size(); ++index) {
      encoder.encode(texts[index], ids, scratch);
      offsets.push_back(ids.size());
    }
  }
  nb::tuple arrays() { return nb::make_tuple(to_numpy(std::move(ids)), to_numpy(std::move(offsets))); }
};

nb::tuple encode_all(const Encoder& encoder, const TextBatch& texts) {
  Encoded encoded;
  encoded.add(encoder, texts);
  return encoded.arrays();
}

// By batches that stay in the cache: Python would keep the UTF-8 of every str as long as the str.
nb::tuple encode_texts(const Encoder& encoder, nb::sequence texts) {
  constexpr std::size_t kBatchBytes = 1 << 18;
  Encoded encoded;
  TextBatch batch;
  for (nb::handle text : texts) {
    append_copy(batch, text);
    if (batch.bytes() < kBatchBytes) continue;
    encoded.add(encoder, batch);
    batch.clear();
  }
  encoded.add(encoder, batch);
  return encoded.arrays();
}

nb::bytes decode_ids(const Encoder& encoder, const std::vector<Id>& ids) {
  std::string bytes;
  for (const Id id : ids) {
    if (!encoder.decode(id, bytes)) {
      throw nb::index_error(("token id " + std::to_string(id) + " is not below the vocabulary size " + std::to_string(encoder.size())).c_str());
    }
  }
  return to_bytes(bytes);
}

template <typename T>
using Array = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Where each of several stretches of an array begins and the last one ends: ascending, and within its `size` elements.
std::vector<std::size_t> bounds_of(const Array<std::uint64_t>& offsets, std::size_t size) {
  if (offsets.size() == 0) throw std::invalid_argument("offsets is empty: it takes one entry more than there are stretches");
  std::vector<std::size_t> bounds(offsets.data(), offsets.data() + offsets.size());  // a copy: another thread could change the original
  for (std::size_t index = 0; index < bounds.size(); ++index) {
    const bool ascending = index == 0 || bounds[index - 1] <= bounds[index];
    if (!ascending || bounds[index] > size) {
      throw std::invalid_argument("offsets[" + std::to_string(index) + "] = " + std::to_string(bounds[index]) +
                                  (ascending ? " is past the end, " + std::to_string(size) : " is below the one before it"));
    }
  }
  return bounds;
}

nb::tuple encode_buffer(const Encoder& encoder, const Array<std::uint8_t>& bytes, const Array<std::uint64_t>& offsets) {
  Ids ids;
  std::vector<std::uint64_t> begins{0};
  {
    nb::gil_scoped_release release;
    const std::vector<std::size_t> bounds = bounds_of(offsets, bytes.size());
    const char* data = reinterpret_cast<const char*>(bytes.data());
    Encoder::Scratch scratch;
    begins.reserve(bounds.size());
    for (std::size_t index = 1; index < bounds.size(); ++index) {
      encoder.encode({data + bounds[index - 1], bounds[index] - bounds[index - 1]}, ids, scratch);
      begins.push_back(ids.size());
    }
  }
  return nb::make_tuple(to_numpy(std::move(ids)), to_numpy(std::move(begins)));
}

// Ids of any integer type; an id that does not exist is an IndexError that names it.
template <typename T>
void decode_into(const Encoder& encoder, const T* ids, std::size_t count, std::string& bytes) {
  for (std::size_t index = 0; index < count; ++index) {
    const T id = ids[index];
    if (std::cmp_less(id, 0) || std::cmp_greater_equal(id, encoder.size()) || !encoder.decode(static_cast<Id>(id), bytes)) {
      throw std::out_of_range(std::to_string(id));
    }
  }
}

using Ids = nb::ndarray<nb::ro, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename Use>
void with_type_of(const Ids& ids, const Use& use) {
  const nb::dlpack::dtype type = ids.dtype();
  const bool is_signed = type.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Int);
  if (!is_signed && type.code != static_cast<std::uint8_t>(nb::dlpack::dtype_code::UInt)) throw nb::type_error("ids must be integers");
  switch (type.bits) {
    case 8: return is_signed ? use(static_cast<const std::int8_t*>(ids.data())) : use(static_cast<const std::uint8_t*>(ids.data()));
    case 16: return is_signed ? use(static_cast<const std::int16_t*>(ids.data())) : use(static_cast<const std::uint16_t*>(ids.data()));
    case 32: return is_signed ? use(static_cast<const std::int32_t*>(ids.data())) : use(static_cast<const std::uint32_t*>(ids.data()));
    case 64: return is_signed ? use(static_cast<const std::int64_t*>(ids.data())) : use(static_cast<const std::uint64_t*>(ids.data()));
    default: throw nb::type_error("ids must be integers");
  }
}

nb::bytes decode_array(const Encoder& encoder, const Ids& ids) {
  std::string bytes;
  {
    nb::gil_scoped_release release;
    with_type_of(ids, [&](const auto* values) { decode_into(encoder, values, ids.size(), bytes); });
  }
  return to_bytes(bytes);
}

nb::tuple decode_buffer(const Encoder& encoder, const Ids& ids, const Array<std::uint64_t>& offsets) {
  std::string bytes;
  std::vector<std::uint64_t> begins;
  {
    nb::gil_scoped_release release;
    const std::vector<std::size_t> bounds = bounds_of(offsets, ids.size());
    with_type_of(ids, [&](const auto* values) {
      for (std::size_t index = 0; index < bounds.size(); ++index) {
        if (index > 0) decode_into(encoder, values + bounds[index - 1], bounds[index] - bounds[index - 1], bytes);
        begins.push_back(bytes.size());
      }
    });
  }
  return nb::make_tuple(to_numpy(std::vector<std::uint8_t>(bytes.begin(), bytes.end())), to_numpy(std::move(begins)));
}

// Appends the bare texts of texts[begin …]; where it stopped, and at which page that is not defined (-1: the text is refused).
nb::tuple append_skeletons(const SkeletonTable& table, const TextBatch& texts, std::size_t begin, TextBatch& out) {
  std::int64_t page = -1;
  {
    nb::gil_scoped_release release;
    for (; begin < texts.size(); ++begin) {
      const SkeletonTable::Outcome outcome = table.append(texts[begin], out.open());
      if (outcome.what == SkeletonTable::Outcome::Undefined) page = outcome.page;
      if (outcome.what != SkeletonTable::Outcome::Bare) break;
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

void add_sets(TwinFinder& finder, const Array<std::uint32_t>& documents, const TextBatch& texts) {
  if (documents.size() != texts.size()) throw std::invalid_argument("as many documents as texts");
  const nb::gil_scoped_release release;
  for (std::size_t index = 0; index < texts.size(); ++index) finder.add(documents.data()[index], texts[index]);
}

nb::tuple decide(const TwinFinder& finder, const Array<std::uint64_t>& pairs, std::size_t begin,
                 const nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>& stays) {
  std::vector<Twin> twins;
  std::vector<std::uint32_t> numbers;
  std::vector<float> similarities;
  {
    const nb::gil_scoped_release release;
    begin = finder.decide({pairs.data(), pairs.size()}, begin, {stays.data(), stays.size()}, twins);
    for (const Twin& twin : twins) {
      numbers.insert(numbers.end(), {twin.document, twin.keeper});
      similarities.push_back(twin.similarity);
    }
  }
  return nb::make_tuple(begin, to_rows(std::move(numbers), 2), to_numpy(std::move(similarities)));
}

}  // namespace
}  // namespace hanlin

NB_MODULE(_native, m) {
  using namespace hanlin;
  m.doc() = "The C++ core: pre-token counting, BPE training and encoding; cleaning, bare texts and duplicates of corpora.";
  bind_cleaning(m);

  nb::class_<TextBatch>(m, "TextBatch", "Texts as UTF-8, behind one another.")
      .def(nb::init<>())
      .def("append", [](TextBatch& batch, nb::handle text) { append_copy(batch, text); }, "text"_a, "Add str or bytes.")
      .def("__len__", &TextBatch::size)
      .def("__getitem__", [](const TextBatch& batch, std::size_t index) {
             if (index >= batch.size()) throw nb::index_error("no such text");
             return to_bytes(batch[index]);
           }, "index"_a, "A text's bytes.")
      .def("buffer", [](const TextBatch& batch) {
             std::vector<std::uint8_t> bytes;
             std::vector<std::uint64_t> ends{0};
             bytes.reserve(batch.bytes());
             for (std::size_t index = 0; index < batch.size(); ++index) {
               bytes.insert(bytes.end(), batch[index].begin(), batch[index].end());
               ends.push_back(bytes.size());
             }
             return nb::make_tuple(to_numpy(std::move(bytes)), to_numpy(std::move(ends)));
           }, "All bytes (uint8) and where each text's begin (uint64, one more than texts).")
      .def_prop_ro("bytes", &TextBatch::bytes);

  nb::class_<OverlapFinder>(m, "OverlapFinder", "Finds passages of benchmarks' items in texts: see native/overlap.hpp.")
      .def(nb::init<std::size_t>(), "n"_a)
      .def("add", [](OverlapFinder& finder, nb::handle item) { return finder.add(view_of(item)); }, "item"_a, "Make a bare text the next item; whether it can be found.")
      .def("find", [](OverlapFinder& finder, const TextBatch& texts, std::uint32_t hits, std::uint32_t longest) {
             nb::list result;
             for (const Overlap& found : finder.find(texts, hits, longest)) {
               result.append(nb::make_tuple(found.text, found.item, found.hits, found.longest, found.begin, found.end));
             }
             return result;
           }, "texts"_a, "hits"_a, "longest"_a, "(text, item, hits, characters of the longest passage, its first byte, its end) of each text that has enough.");

  nb::class_<JsonLines>(m, "JsonLines", "Reads the texts of plain JSON lines: see native/json_lines.hpp.")
      .def(nb::init<std::string, std::size_t>(), "text_key"_a, "longest"_a)
      .def("know", &JsonLines::know, "keys"_a, "Objects with just these keys, in this order, are plain from now on.")
      .def("read", [](const JsonLines& reader, nb::bytes block, std::size_t begin, TextBatch& texts) {
             const std::string_view lines = view_of(block);
             nb::gil_scoped_release release;
             std::size_t passed = 0;
             const std::size_t end = reader.read(lines, begin, texts, passed);
             return std::make_tuple(end, passed);
           }, "block"_a, "begin"_a, "texts"_a, "Append texts until a line is not plain: (where that is, or the end; lines passed).");

  nb::class_<PretokenCounter>(m, "PretokenCounter", "Counts the pre-tokens of texts.")
      .def(nb::init<>())
      .def("add", &count_batch<PretokenCounter>, "texts"_a, nb::call_guard<nb::gil_scoped_release>(), "Count a batch of documents.")
      .def("add", &count_texts<PretokenCounter>, "texts"_a, "Count a sequence of str or bytes, each a document of its own.")
      .def("add_word", [](PretokenCounter& counter, nb::handle word, std::int64_t count) { counter.add_word(view_of(word), count); }, "word"_a, "count"_a,
           "Count one pre-token as it is.")
      .def("merge", &PretokenCounter::merge, "other"_a, nb::call_guard<nb::gil_scoped_release>(), "Add another counter's counts.")
      .def("words", &counted_words, "List of (bytes, count), the most frequent first.")
      .def_prop_ro("distinct", &PretokenCounter::distinct)
      .def_prop_ro("total", &PretokenCounter::total)
      .def_prop_ro("bytes", &PretokenCounter::bytes);

  nb::class_<Census>(m, "Census", "Counts characters and bigrams: see native/census.hpp.")
      .def(nb::init<>())
      .def("add", &count_batch<Census>, "texts"_a, nb::call_guard<nb::gil_scoped_release>(), "Count a batch of documents.")
      .def("add", &count_texts<Census>, "texts"_a, "Count a sequence of str or bytes, each a document of its own.")
      .def("add_word", [](Census& census, nb::handle word, std::int64_t count) { census.add_word(view_of(word), count); }, "word"_a, "count"_a,
           "Count one pre-token as it is.")
      .def("merge", &Census::merge, "other"_a, nb::call_guard<nb::gil_scoped_release>(), "Add another census's counts.")
      .def("save", &Census::save, "path"_a, nb::call_guard<nb::gil_scoped_release>(), "Write it to a file; RuntimeError if that fails.")
      .def_static("load", [](const std::string& path) { return std::shared_ptr<Census>(Census::load(path)); }, "path"_a,
                  nb::call_guard<nb::gil_scoped_release>(), "Read what was saved; RuntimeError if that fails.")
      .def("floor_that_leaves", &Census::floor_that_leaves, "bigrams"_a, nb::call_guard<nb::gil_scoped_release>(),
           "The highest count that so many bigrams have or exceed.")
      .def_prop_ro("bytes", &Census::bytes);

  nb::class_<PieceCounter>(m, "PieceCounter", "Counts pieces of pre-tokens, cut at bigrams rarer than a floor: see native/pieces.hpp.")
      .def(nb::new_([](std::shared_ptr<Census> census, std::int64_t floor, std::size_t table_bytes, std::size_t symbols, const std::string& folder) {
             return std::make_unique<PieceCounter>(std::move(census), floor, PieceMemory{table_bytes, symbols, folder});
           }),
           "census"_a, "floor"_a, "table_bytes"_a = 0, "symbols"_a = 0, "folder"_a = "")
      .def("add", &count_batch<PieceCounter>, "texts"_a, nb::call_guard<nb::gil_scoped_release>(), "Count a batch of documents.")
      .def("add", &count_texts<PieceCounter>, "texts"_a, "Count a sequence of str or bytes that the census has seen.")
      .def("add_word", [](PieceCounter& counter, nb::handle word, std::int64_t count) { counter.add_word(view_of(word), count); }, "word"_a, "count"_a,
           "Count one pre-token as it is.")
      .def("merge", &PieceCounter::merge, "other"_a, nb::call_guard<nb::gil_scoped_release>(), "Take another counter's counts.")
      .def("save", &PieceCounter::save, nb::call_guard<nb::gil_scoped_release>(), "Write all counts to runs in the folder; their paths.")
      .def("adopt", &PieceCounter::adopt, "run"_a, "Count a run that an earlier process wrote.")
      .def_prop_ro("distinct", &PieceCounter::distinct)
      .def_prop_ro("thinning", &PieceCounter::thinning)
      .def_prop_ro("floor", &PieceCounter::floor);

  m.def("train_pieces", &train_from_pieces, "counter"_a, "new_tokens"_a, "min_frequency"_a = 2, "max_characters"_a = 0, "progress"_a = nb::none(),
        "threads"_a = 1, "places_at_once"_a = std::size_t{1} << 26,
        "Learn aligned merges from pieces: (merges, least count that was learnt down to, whether that was enough).");
  m.def("train_plain", &train_plain_merges, "counter"_a, "new_tokens"_a, "min_frequency"_a = 2, "max_characters"_a = 0, "progress"_a = nb::none(),
        "threads"_a = 1, "places_at_once"_a = std::size_t{1} << 26,
        "What train(…, aligned=False) gives, in less memory. Takes the counter's words.");
  m.def("train", &train_merges, "counter"_a, "new_tokens"_a, "min_frequency"_a = 2, "max_characters"_a = 0, "aligned"_a = true,
        "progress"_a = nb::none(), "Learn merges: list of (left, right, count), at most `new_tokens`.");
  m.def("pretokens", &pretokens, "text"_a, "Cut str or bytes into pre-tokens.");

  nb::class_<Vocabulary>(m, "Vocabulary", "Tokens and merges as tokenizer.json spells them: see native/vocabulary.hpp.")
      .def_static("of_json", &vocabulary_of_json, "json"_a,
                  "The vocabulary of a tokenizer.json, and the document with it emptied; ValueError with what does not fit.")
      .def("tokens", &spellings, "What each id spells, a list of bytes.")
      .def("merges", &ranked_merges, "(left, right, result) ids by rank, a list.")
      .def("encoder", &encoder_of, "control"_a, "An Encoder; the control tokens' ids follow.")
      .def("__len__", [](const Vocabulary& vocabulary) { return vocabulary.tokens.size(); });

  nb::class_<Encoder>(m, "Encoder", "Byte-pair encoding by rank.")
      .def(nb::new_(&make_encoder), "tokens"_a, "ordinary"_a, "merges"_a,
           "tokens: what each id spells; ordinary: how many of them merges may use; merges: (left, right, result) ids by rank.")
      .def("encode", &encode_text, "text"_a, "Ids of str or bytes.")
      .def("encode_batch", &encode_all, "texts"_a, "All ids (uint32) and where each text's begin (uint64, one more than texts).")
      .def("encode_batch", &encode_texts, "texts"_a, "All ids (uint32) and where each text's begin (uint64, one more than texts).")
      .def("encode_buffer", &encode_buffer, nb::arg("bytes").noconvert(), nb::arg("offsets").noconvert(),
           "As encode_batch, of texts that lie one after another in an array: from offsets[i] to offsets[i + 1].")
      .def("decode", &decode_ids, "ids"_a, "The bytes that ids spell; IndexError if an id does not exist.")
      .def("decode_array", &decode_array, nb::arg("ids").noconvert(), "As decode, of an array of integers; the IndexError's text is the id.")
      .def("decode_buffer", &decode_buffer, nb::arg("ids").noconvert(), nb::arg("offsets").noconvert(),
           "Bytes (uint8) and offsets (uint64) of texts whose ids lie one after another in an array.")
      .def("unreachable", &unreachable, nb::call_guard<nb::gil_scoped_release>(), "Ordinary ids no text was found to produce.")
      .def_prop_ro("aligned", &Encoder::aligned)
      .def("__len__", &Encoder::size);

  nb::class_<SkeletonTable>(m, "SkeletonTable", "What characters become in bare texts: see native/skeleton.hpp.")
      .def(nb::init<>())
      .def("define", &SkeletonTable::define, "page"_a, "mapped"_a, "refused"_a, "Define 256 code points: what each becomes, or that it is refused.")
      .def("append", &append_skeletons, "texts"_a, "begin"_a, "out"_a,
           "Append bare texts from texts[begin] on: (where it stopped, the page that is missing, or -1).");

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

  nb::class_<TwinFinder>(m, "TwinFinder", "Decides which documents go: see native/twins.hpp.")
      .def(nb::init<std::size_t, double>(), "shingle"_a, "threshold"_a)
      .def("add", &add_sets, nb::arg("documents").noconvert(), "texts"_a, "Have the shingles of documents at hand.")
      .def("clear", &TwinFinder::clear, "Let them go.")
      .def_prop_ro("bytes", &TwinFinder::bytes)
      .def("decide", &decide, nb::arg("pairs").noconvert(), "begin"_a, nb::arg("stays").noconvert(),
           "Decide pairs from `begin` on: (where a document is not at hand, or the end; (K, 2) documents that go and their keepers; similarities).");
}
