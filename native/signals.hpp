// Everything that the cleaning rules look at, counted in one pass over a document's characters, one over its distinct characters and one
// over its n-grams. Only counts: hanlin.corpus.filters.signals makes shares of them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "characters.hpp"
#include "repetition.hpp"

namespace hanlin {

struct Signals {
  // Characters, by kind.
  std::int64_t solid = 0;  // not white space
  std::int64_t han = 0, letter = 0, digit = 0, punctuation = 0, symbol = 0, bracket = 0, replacement = 0, common = 0, traditional = 0;
  std::int64_t latin = 0, kana = 0, hangul = 0, cyrillic = 0, ellipsis = 0, number_sign = 0;
  std::int64_t word = 0;  // ideographs, letters and digits: what n-grams and entropy are made of
  double entropy = 0;     // of those, in nats
  // Lines that are not empty.
  std::int64_t lines = 0, terminal_lines = 0, bullet_lines = 0, ellipsis_lines = 0, more_lines = 0;
  std::int64_t repeated_lines = 0;  // that occurred earlier, and hold a letter, digit or ideograph
  std::int64_t longest_line = 0;  // in characters
  Repetition::Counts grams;
};

// Measures documents one after another; its memory is used again. For one thread.
class SignalCounter {
 public:
  // `more`: what a line ends with that hides the rest of it, such as 展开, in UTF-8 and lower case.
  SignalCounter(std::shared_ptr<const CharacterTable> table, std::vector<std::string> more);

  // Hashes of the document's lines are appended to `line_hashes`.
  Signals measure(std::string_view text, std::vector<std::uint64_t>& line_hashes);

 private:
  static constexpr std::size_t kLogarithms = 1024;

  std::uint32_t number_of(std::uint32_t code_point);
  void end_line(std::string_view line, std::uint32_t first, std::uint32_t last, std::vector<std::uint64_t>& hashes, Signals& signals);
  void count_kinds(Signals& signals) const;
  void close_with(std::string_view end);
  double weight(std::uint32_t count) const;

  std::shared_ptr<const CharacterTable> table_;
  std::vector<std::string> more_;
  std::array<bool, 256> closing_{};  // of characters modulo 256: whether one may be the last of a line that ends in `more`
  std::vector<double> weights_;  // n ln n

  struct Number {
    std::uint32_t document = 0, number = 0;
  };
  std::vector<Number> numbers_;          // of each code point, if it occurred in this document
  std::uint32_t document_ = 0;
  std::vector<std::uint32_t> flags_;     // of distinct characters
  std::vector<std::uint32_t> points_;
  std::vector<std::uint32_t> counts_;
  std::vector<std::uint32_t> words_;     // the document's word characters, by number, and room behind them
  std::vector<std::uint64_t> worded_;    // hashes of lines with any of those
  RoundTable lines_;
  Repetition repetition_;
};

}  // namespace hanlin
