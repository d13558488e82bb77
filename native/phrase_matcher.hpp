// Finds the lines of a text that hold one of some phrases, so that the patterns those phrases are part of need not be tried on all others.
//
// White space of all kinds and what is invisible is passed over, and ASCII letters have no case, on both sides: 日 赚 is 日赚. A line that a
// pattern made of these phrases matches is always found; a line that is found may still not match.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "bigram_bloom_filter.hpp"
#include "characters.hpp"

namespace hanlin {

class PhraseMatcher {
 public:
  // A group of phrases in UTF-8; lines longer than `longest` characters are not reported for it.
  struct Group {
    std::vector<std::string_view> phrases;
    std::size_t longest;
  };
  struct Line {
    std::uint32_t number;  // from 0
    std::uint32_t groups;  // a bit for each that was found
  };

  // Throws std::invalid_argument for more than 32 groups and for a phrase of white space only.
  PhraseMatcher(std::shared_ptr<const CharacterTable> table, const std::vector<Group>& groups);

  // Appends the lines of `text` that hold a phrase of a group whose limit they keep.
  void find(std::string_view text, std::vector<Line>& lines) const;

 private:
  struct Phrase {
    std::vector<std::uint32_t> characters;
    std::uint32_t group;
  };

  std::vector<std::uint32_t> squeezed(std::string_view phrase) const;
  std::uint32_t groups_in(const std::vector<std::uint32_t>& line) const;

  std::shared_ptr<const CharacterTable> table_;
  std::vector<std::size_t> longest_;     // by group
  BigramBloomFilter beginnings_;                  // of phrases: their first two characters
  std::array<bool, 256> alone_{};        // of phrases of one character, modulo 256
  std::unordered_map<std::uint64_t, std::vector<Phrase>> by_beginning_;  // exactly; 0 stands for the first of two where there is only one
};

}  // namespace hanlin
