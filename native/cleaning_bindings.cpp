// The part of hanlin._native that cleans corpora: see hanlin.corpus.filters.signals, normalize and promotion, which call it.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "normalization_check.hpp"
#include "phrase_matcher.hpp"
#include "python.hpp"
#include "signals.hpp"

namespace hanlin {
namespace {

using Flags = Array<std::uint32_t>;

// A SignalCounter that threads take turns with.
struct SharedSignalCounter {
  SignalCounter counter;
  std::mutex turn;
};

struct Column {
  const char* name;
  std::int64_t Signals::*count;
};
constexpr Column kColumns[] = {
    {"solid", &Signals::solid},
    {"han", &Signals::han},
    {"letter", &Signals::letter},
    {"digit", &Signals::digit},
    {"punctuation", &Signals::punctuation},
    {"symbol", &Signals::symbol},
    {"bracket", &Signals::bracket},
    {"replacement", &Signals::replacement},
    {"common", &Signals::common},
    {"traditional", &Signals::traditional},
    {"latin", &Signals::latin},
    {"kana", &Signals::kana},
    {"hangul", &Signals::hangul},
    {"cyrillic", &Signals::cyrillic},
    {"ellipsis", &Signals::ellipsis},
    {"number_sign", &Signals::number_sign},
    {"word", &Signals::word},
    {"lines", &Signals::lines},
    {"terminal_lines", &Signals::terminal_lines},
    {"bullet_lines", &Signals::bullet_lines},
    {"ellipsis_lines", &Signals::ellipsis_lines},
    {"more_lines", &Signals::more_lines},
    {"repeated_lines", &Signals::repeated_lines},
    {"longest_line", &Signals::longest_line},
};

template <typename T, typename Value>
auto column(const std::vector<Signals>& all, const Value& value) {
  std::vector<T> values;
  values.reserve(all.size());
  for (const Signals& one : all) values.push_back(value(one));
  return to_numpy(std::move(values));
}

nb::dict measure(SharedSignalCounter& shared, nb::sequence texts) {
  const Texts items(texts);
  std::vector<Signals> all;
  std::vector<std::uint64_t> hashes;
  {
    nb::gil_scoped_release release;
    const std::scoped_lock lock(shared.turn);
    all.reserve(items.views.size());
    for (const std::string_view text : items.views) all.push_back(shared.counter.measure(text, hashes));
  }
  nb::dict result;
  for (const Column& each : kColumns) result[each.name] = column<std::int64_t>(all, [&](const Signals& one) { return one.*each.count; });
  for (std::size_t n = 2; n <= Repetition::kLongest; ++n) {
    result[("top_" + std::to_string(n)).c_str()] = column<std::int64_t>(all, [&](const Signals& one) { return one.grams.top[n]; });
    result[("repeated_" + std::to_string(n)).c_str()] = column<std::int64_t>(all, [&](const Signals& one) { return one.grams.repeated[n]; });
  }
  result["entropy"] = column<double>(all, [](const Signals& one) { return one.entropy; });
  result["line_hashes"] = to_numpy(std::move(hashes));
  return result;
}

auto texts_that_need_normalization(const CharacterTable& table, nb::sequence texts) {
  const Texts items(texts);
  std::vector<std::uint32_t> found;
  {
    nb::gil_scoped_release release;
    found.reserve(items.views.size());
    for (const std::string_view text : items.views) found.push_back(needs_normalization(text, table));
  }
  return to_numpy(std::move(found));
}

std::unique_ptr<PhraseMatcher> make_finder(std::shared_ptr<const CharacterTable> table, nb::sequence groups) {
  std::vector<nb::object> owners;
  std::vector<PhraseMatcher::Group> given;
  for (nb::handle group : groups) {
    const auto pair = nb::cast<std::pair<nb::sequence, std::size_t>>(group);
    PhraseMatcher::Group& made = given.emplace_back();
    made.longest = pair.second;
    for (nb::handle phrase : pair.first) {
      owners.push_back(nb::borrow(phrase));
      made.phrases.push_back(view_of(phrase));
    }
  }
  return std::make_unique<PhraseMatcher>(std::move(table), given);
}

nb::tuple find_phrases(const PhraseMatcher& finder, nb::sequence texts) {
  const Texts items(texts);
  std::vector<PhraseMatcher::Line> lines;
  std::vector<std::uint32_t> documents, numbers, groups;
  {
    nb::gil_scoped_release release;
    for (std::size_t index = 0; index < items.views.size(); ++index) {
      finder.find(items.views[index], lines);
      documents.resize(lines.size(), static_cast<std::uint32_t>(index));
    }
    for (const PhraseMatcher::Line& line : lines) {
      numbers.push_back(line.number);
      groups.push_back(line.groups);
    }
  }
  return nb::make_tuple(to_numpy(std::move(documents)), to_numpy(std::move(numbers)), to_numpy(std::move(groups)));
}

}  // namespace

void bind_cleaning(nb::module_& m) {
  nb::class_<CharacterTable>(m, "CharacterTable", "What kind of character each code point is: see native/characters.hpp.")
      .def(nb::new_([](const Flags& flags) { return std::make_shared<CharacterTable>(std::vector<std::uint32_t>(flags.data(), flags.data() + flags.size())); }),
           nb::arg("flags").noconvert(), "flags: of every code point, uint32.")
      .def("needs_normalization", &texts_that_need_normalization, "texts"_a, "For each text why it may need normalisation, bits of native/normalization_check.hpp (uint32).");

  nb::class_<SharedSignalCounter>(m, "SignalCounter", "Counts what cleaning rules look at: see native/signals.hpp.")
      .def(nb::new_([](std::shared_ptr<CharacterTable> table, std::vector<std::string> more) {
             return std::unique_ptr<SharedSignalCounter>(new SharedSignalCounter{SignalCounter(std::move(table), std::move(more)), {}});
           }),
           "table"_a, "more"_a, "more: what lines that go on elsewhere end with, in lower case.")
      .def("measure", &measure, "texts"_a, "Counts by name, an array of one value per text each; line_hashes holds those of all lines.");

  nb::class_<PhraseMatcher>(m, "PhraseMatcher", "Finds lines that hold one of some phrases: see native/phrase_matcher.hpp.")
      .def(nb::new_([](std::shared_ptr<CharacterTable> table, nb::sequence groups) { return make_finder(std::move(table), groups); }), "table"_a, "groups"_a,
           "groups: (phrases, longest line in characters).")
      .def("find", &find_phrases, "texts"_a, "Text, line (both from 0) and bits of the groups found, for each line that holds a phrase (uint32).");
}

}  // namespace hanlin
