// The part of hanlin._native that encodes and decodes: see hanlin.tokenizer, which calls it.
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

#include "encoder.hpp"
#include "python.hpp"
#include "reachability.hpp"
#include "vocabulary.hpp"

namespace hanlin {
namespace {

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

using IdArray = nb::ndarray<nb::ro, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename Use>
void with_type_of(const IdArray& ids, const Use& use) {
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

nb::bytes decode_array(const Encoder& encoder, const IdArray& ids) {
  std::string bytes;
  {
    nb::gil_scoped_release release;
    with_type_of(ids, [&](const auto* values) { decode_into(encoder, values, ids.size(), bytes); });
  }
  return to_bytes(bytes);
}

nb::tuple decode_buffer(const Encoder& encoder, const IdArray& ids, const Array<std::uint64_t>& offsets) {
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

void bind_encoding(nb::module_& m) {
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
}

}  // namespace hanlin
