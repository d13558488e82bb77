// The Python module hanlin._native: a thin skin over the core. Long work runs without the GIL; C++ exceptions become ValueError,
// OverflowError or MemoryError with their message.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
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
#include "reachability.hpp"
#include "scanner.hpp"
#include "trainer.hpp"
#include "vocabulary.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace hanlin {
namespace {

// The bytes of a Python str (as UTF-8) or bytes object, which must outlive the view.
std::string_view view_of(nb::handle text) {
  if (PyUnicode_Check(text.ptr())) {
    Py_ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
    if (data == nullptr) throw nb::python_error();
    return {data, static_cast<std::size_t>(size)};
  }
  char* data = nullptr;
  Py_ssize_t size = 0;
  if (PyBytes_AsStringAndSize(text.ptr(), &data, &size) != 0) throw nb::python_error();
  return {data, static_cast<std::size_t>(size)};
}

// Views of the items of a sequence, and the references that keep them alive while the GIL is released.
struct Texts {
  std::vector<nb::object> owners;
  std::vector<std::string_view> views;

  explicit Texts(nb::sequence texts) {
    for (nb::handle text : texts) {
      owners.push_back(nb::borrow(text));
      views.push_back(view_of(text));
    }
  }
};

template <typename T>
nb::ndarray<nb::numpy, T, nb::ndim<1>> to_numpy(std::vector<T>&& values) {
  auto* owned = new std::vector<T>(std::move(values));
  nb::capsule owner(owned, [](void* pointer) noexcept { delete static_cast<std::vector<T>*>(pointer); });
  return nb::ndarray<nb::numpy, T, nb::ndim<1>>(owned->data(), {owned->size()}, owner);
}

nb::bytes to_bytes(std::string_view text) { return nb::bytes(text.data(), text.size()); }

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
  std::vector<Id> ids;
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

template <typename Batch>
nb::tuple encode_all(const Encoder& encoder, const Batch& texts) {
  std::vector<Id> ids;
  std::vector<std::uint64_t> offsets{0};
  {
    nb::gil_scoped_release release;
    Encoder::Scratch scratch;
    offsets.reserve(texts.size() + 1);
    for (std::size_t index = 0; index < texts.size(); ++index) {
      encoder.encode(texts[index], ids, scratch);
      offsets.push_back(ids.size());
    }
  }
  return nb::make_tuple(to_numpy(std::move(ids)), to_numpy(std::move(offsets)));
}

nb::tuple encode_texts(const Encoder& encoder, nb::sequence texts) {
  const Texts items(texts);
  return encode_all(encoder, items.views);
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
  std::vector<Id> ids;
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

}  // namespace
}  // namespace hanlin

NB_MODULE(_native, m) {
  using namespace hanlin;
  m.doc() = "The C++ core of the tokenizer: pre-token counting, BPE training, encoding.";

  nb::class_<TextBatch>(m, "TextBatch", "Texts as UTF-8, behind one another.")
      .def(nb::init<>())
      .def("append", [](TextBatch& batch, nb::handle text) { batch.append(view_of(text)); }, "text"_a, "Add str or bytes.")
      .def("__len__", &TextBatch::size)
      .def("__getitem__", [](const TextBatch& batch, std::size_t index) {
             if (index >= batch.size()) throw nb::index_error("no such text");
             return to_bytes(batch[index]);
           }, "index"_a, "A text's bytes.")
      .def_prop_ro("bytes", &TextBatch::bytes);

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
      .def("encode_batch", &encode_all<TextBatch>, "texts"_a, "All ids (uint32) and where each text's begin (uint64, one more than texts).")
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
}
