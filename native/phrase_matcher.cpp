#include "phrase_matcher.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace hanlin {

namespace {

constexpr std::uint32_t kLastSpace = 0x3000;
constexpr std::uint32_t kPassedOver = kSpace | kBreak | kInvisible;

// ASCII letters to lower case, and with them the four letters that Unicode says are one of those in another case.
std::uint32_t folded(std::uint32_t point) {
  if (point - 'A' < 26) return point + 32;
  if (point < 0x130) return point;
  if (point == 0x130 || point == 0x131) return 'i';
  if (point == 0x17F) return 's';
  return point == 0x212A ? 'k' : point;
}

std::uint64_t key_of(std::uint32_t left, std::uint32_t right) { return std::uint64_t{left} << 32 | right; }

}  // namespace

PhraseMatcher::PhraseMatcher(std::shared_ptr<const CharacterTable> table, const std::vector<Group>& groups) : table_(std::move(table)) {
  if (groups.size() > 32) throw std::invalid_argument("more than 32 groups of phrases");
  for (std::size_t group = 0; group < groups.size(); ++group) {
    longest_.push_back(groups[group].longest);
    for (const std::string_view phrase : groups[group].phrases) {
      std::vector<std::uint32_t> characters = squeezed(phrase);
      if (characters.empty()) throw std::invalid_argument("a phrase without any character");
      const std::uint64_t key = characters.size() == 1 ? key_of(0, characters[0]) : key_of(characters[0], characters[1]);
      by_beginning_[key].push_back({std::move(characters), 1u << group});
    }
  }
  beginnings_ = BigramBloomFilter(by_beginning_.size());
  for (const auto& [key, phrases] : by_beginning_) {
    const auto left = static_cast<std::uint32_t>(key >> 32), right = static_cast<std::uint32_t>(key);
    if (left == 0) {
      alone_[right % alone_.size()] = true;
    } else {
      beginnings_.add(left, right);
    }
  }
}

std::vector<std::uint32_t> PhraseMatcher::squeezed(std::string_view phrase) const {
  std::vector<std::uint32_t> characters;
  for (std::size_t position = 0; position < phrase.size();) {
    const Unit unit = decode_character(phrase, position);
    if (!((*table_)[unit.code_point] & kPassedOver)) characters.push_back(folded(unit.code_point));
    position += unit.size;
  }
  return characters;
}

void PhraseMatcher::find(std::string_view text, std::vector<Line>& lines) const {
  std::vector<std::uint32_t> line;  // without its white space
  std::uint32_t number = 0;
  std::size_t length = 0;
  const auto end_line = [&] {
    std::uint32_t groups = groups_in(line);
    for (std::size_t group = 0; group < longest_.size(); ++group) {
      if (length > longest_[group]) groups &= ~(1u << group);
    }
    if (groups != 0) lines.push_back({number, groups});
    line.clear();
    length = 0;
    ++number;
  };
  for (std::size_t position = 0; position < text.size();) {
    const Unit unit = decode_character(text, position);
    position += unit.size;
    if (unit.code_point == '\n') {
      end_line();
      continue;
    }
    ++length;
    if (unit.code_point > kLastSpace) {
      line.push_back(unit.code_point);  // and has no case
    } else if (!((*table_)[unit.code_point] & kPassedOver)) {
      line.push_back(folded(unit.code_point));
    }
  }
  end_line();
}

std::uint32_t PhraseMatcher::groups_in(const std::vector<std::uint32_t>& line) const {
  std::uint32_t groups = 0;
  const auto look = [&](std::size_t index, std::uint32_t left, std::uint32_t right) {
    const auto found = by_beginning_.find(key_of(left, right));
    if (found == by_beginning_.end()) return;
    for (const Phrase& phrase : found->second) {
      if (phrase.characters.size() > line.size() - index) continue;
      if (std::equal(phrase.characters.begin(), phrase.characters.end(), line.begin() + static_cast<std::ptrdiff_t>(index))) groups |= phrase.group;
    }
  };
  for (std::size_t index = 0; index < line.size(); ++index) {
    if (alone_[line[index] % alone_.size()]) look(index, 0, line[index]);
    if (index + 1 < line.size() && beginnings_.has(line[index], line[index + 1])) look(index, line[index], line[index + 1]);
  }
  return groups;
}

}  // namespace hanlin
