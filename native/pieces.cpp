#include "pieces.hpp"

#include <stdexcept>
#include <utility>

#include "scanner.hpp"

namespace hanlin {

PieceCounter::PieceCounter(std::shared_ptr<const Census> census, std::int64_t floor) : census_(std::move(census)), floor_(floor) {}

// Calls close(piece) for every piece of two characters or more: single ones hold no pair, and the census has counted them.
template <typename Close>
void PieceCounter::cut(std::string_view word, Close&& close) const {
  const Alphabet& alphabet = census_->alphabet();
  const BigramTable& bigrams = census_->bigrams();
  std::size_t begin = 0, units = 0;  // of the piece that is open
  Id previous = 0;
  for (std::size_t position = 0; position < word.size();) {
    const Unit unit = decode_unit(word, position);
    if (unit.code_point == kInvalid) {
      if (units > 1) close(word.substr(begin, position - begin));
      position += unit.size;
      begin = position;
      units = 0;
      continue;
    }
    if (!alphabet.knows(unit.code_point)) throw std::invalid_argument("text that the census has not seen");
    const Id id = alphabet.known_id(unit.code_point);
    if (units > 0 && bigrams.count(previous, id) < floor_) {
      if (units > 1) close(word.substr(begin, position - begin));
      begin = position;
      units = 0;
    }
    ++units;
    previous = id;
    position += unit.size;
  }
  if (units > 1) close(word.substr(begin));
}

void PieceCounter::add(std::string_view text) {
  Scanner scanner(text);
  for (std::string_view word = scanner.next(); !word.empty(); word = scanner.next()) {
    cut(word, [&](std::string_view piece) { table_.add_later(piece); });
  }
  table_.flush();
  bytes_ += text.size();
}

void PieceCounter::add_word(std::string_view word, std::int64_t count) {
  cut(word, [&](std::string_view piece) { table_.add(piece, count); });
}

void PieceCounter::merge(const PieceCounter& other) {
  if (census_ != other.census_ || floor_ != other.floor_) throw std::invalid_argument("pieces of another census or floor");
  table_.add_all(other.table_);
  bytes_ += other.bytes_;
}

UnitWords PieceCounter::take_words() {
  const Alphabet& alphabet = census_->alphabet();
  UnitWords words;
  for (Id id = 0; id < alphabet.size(); ++id) words.alphabet.push_back(utf8(alphabet.code_point(id)));
  for (const std::uint32_t index : table_.by_count()) {
    const Word word = table_[index];
    words.begin_word(word.count);
    for (std::size_t position = 0; position < word.bytes.size();) {
      const Unit unit = decode_unit(word.bytes, position);
      words.units.push_back(alphabet.known_id(unit.code_point));
      position += unit.size;
    }
    words.end_word();
  }
  table_ = WordTable();
  return words;
}

}  // namespace hanlin
