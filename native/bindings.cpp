// The Python module hanlin._native: a thin skin over the core. Long work runs without the GIL; C++ exceptions become ValueError,
// OverflowError, RuntimeError or MemoryError with their message.
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "json_lines.hpp"
#include "python.hpp"

NB_MODULE(_native, m) {
  using namespace hanlin;
  m.doc() = "The C++ core: pre-token counting, BPE training and encoding; cleaning, comparison keys and duplicates of corpora.";

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

  bind_training(m);
  bind_encoding(m);
  bind_cleaning(m);
  bind_duplicates(m);
}
