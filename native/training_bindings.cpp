// The part of hanlin._native that counts and learns merges: see hanlin.tokenizer.train, which calls it.
#include <nanobind/stl/function.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "counter.hpp"
#include "python.hpp"
#include "scanner.hpp"
#include "trainer.hpp"

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

}  // namespace

void bind_training(nb::module_& m) {
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

  nb::class_<BigramCounts>(m, "BigramCounts", "Counts characters and bigrams: see native/bigram_counts.hpp.")
      .def(nb::init<>())
      .def("add", &count_batch<BigramCounts>, "texts"_a, nb::call_guard<nb::gil_scoped_release>(), "Count a batch of documents.")
      .def("add", &count_texts<BigramCounts>, "texts"_a, "Count a sequence of str or bytes, each a document of its own.")
      .def("add_word", [](BigramCounts& bigram_counts, nb::handle word, std::int64_t count) { bigram_counts.add_word(view_of(word), count); }, "word"_a, "count"_a,
           "Count one pre-token as it is.")
      .def("merge", &BigramCounts::merge, "other"_a, nb::call_guard<nb::gil_scoped_release>(), "Add another's counts.")
      .def("save", &BigramCounts::save, "path"_a, nb::call_guard<nb::gil_scoped_release>(), "Write it to a file; RuntimeError if that fails.")
      .def_static("load", [](const std::string& path) { return std::shared_ptr<BigramCounts>(BigramCounts::load(path)); }, "path"_a,
                  nb::call_guard<nb::gil_scoped_release>(), "Read what was saved; RuntimeError if that fails.")
      .def("floor_that_leaves", &BigramCounts::floor_that_leaves, "bigrams"_a, nb::call_guard<nb::gil_scoped_release>(),
           "The highest count that so many bigrams have or exceed.")
      .def_prop_ro("bytes", &BigramCounts::bytes);

  nb::class_<PieceCounter>(m, "PieceCounter", "Counts pieces of pre-tokens, cut at bigrams rarer than a floor: see native/pieces.hpp.")
      .def(nb::new_([](std::shared_ptr<BigramCounts> bigram_counts, std::int64_t floor, std::size_t table_bytes, std::size_t symbols, const std::string& folder) {
             return std::make_unique<PieceCounter>(std::move(bigram_counts), floor, PieceMemory{table_bytes, symbols, folder});
           }),
           "bigram_counts"_a, "floor"_a, "table_bytes"_a = 0, "symbols"_a = 0, "folder"_a = "")
      .def("add", &count_batch<PieceCounter>, "texts"_a, nb::call_guard<nb::gil_scoped_release>(), "Count a batch of documents.")
      .def("add", &count_texts<PieceCounter>, "texts"_a, "Count a sequence of str or bytes whose characters have been counted.")
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
}

}  // namespace hanlin
