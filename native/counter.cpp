#include "counter.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "prefetch.hpp"
#include "scanner.hpp"

namespace hanlin {

namespace {

constexpr std::int64_t kMaxWeight = std::int64_t{1} << 62;

std::uint32_t tag_of(std::string_view word) { return static_cast<std::uint32_t>(hash_bytes(word)); }

}  // namespace

// Eight bytes at a time, each folded in by a multiplication and a rotation; the finish is that of SplitMix64.
std::uint64_t hash_bytes(std::string_view bytes) {
  std::uint64_t hash = 0x9E3779B97F4A7C15ull ^ bytes.size();
  const char* data = bytes.data();
  std::size_t left = bytes.size();
  while (left > 0) {
    std::uint64_t block = 0;
    const std::size_t size = std::min<std::size_t>(left, 8);
    std::memcpy(&block, data, size);
    hash = (hash ^ block) * 0xBF58476D1CE4E5B9ull;
    hash ^= hash >> 29;
    data += size;
    left -= size;
  }
  hash = (hash ^ (hash >> 27)) * 0x94D049BB133111EBull;
  return hash ^ (hash >> 31);
}

void WordTable::add(std::string_view word, std::int64_t count) {
  if (word.empty() || count <= 0) return;
  weigh(word.size(), count);
  this->count(word, tag_of(word), count);
}

void WordTable::add_all(const WordTable& other) {
  if (this == &other) throw std::invalid_argument("a table cannot be added to itself");
  for (std::size_t index = 0; index < other.size(); ++index) add_later(other[index].bytes, other[index].count);
  flush();
}

void WordTable::add_later(std::string_view word, std::int64_t count) {
  waiting_.push_back({word, count, tag_of(word)});
  if (!slots_.empty()) prefetch(&slots_[waiting_.back().tag & (slots_.size() - 1)]);
  if (waiting_.size() == kBatch) flush();
}

// Asks for what looking the items up will read: their slots were asked for before, their words' entries and bytes follow.
template <typename Items>
void WordTable::fetch(const Items& items) const {
  const std::size_t mask = slots_.size() - 1;
  for (const Waiting& item : items) {
    const Slot& slot = slots_[item.tag & mask];
    if (slot.index != kEmpty) prefetch(&entries_[slot.index]);
  }
  for (const Waiting& item : items) {
    const Slot& slot = slots_[item.tag & mask];
    if (slot.index != kEmpty) prefetch(arena_.data() + entries_[slot.index].begin);
  }
}

void WordTable::flush() {
  if (slots_.empty()) grow();
  fetch(waiting_);
  for (const Waiting& item : waiting_) {
    weigh(item.word.size(), item.count);
    count(item.word, item.tag, item.count);
  }
  waiting_.clear();
}

void WordTable::give_known(std::size_t first, std::size_t last, WordTable& other) {
  if (other.slots_.empty()) return;
  const std::size_t mask = other.slots_.size() - 1;
  std::vector<Waiting> batch;
  while (first < last) {
    const std::size_t end = std::min(first + kBatch, last);
    batch.clear();
    for (std::size_t index = first; index < end; ++index) {
      const Word word = (*this)[index];
      batch.push_back({word.bytes, word.count, tag_of(word.bytes)});
      prefetch(&other.slots_[batch.back().tag & mask]);
    }
    other.fetch(batch);
    for (const Waiting& item : batch) {
      const std::size_t index = first++;
      for (std::size_t place = item.tag & mask; other.slots_[place].index != kEmpty; place = (place + 1) & mask) {
        const Slot& slot = other.slots_[place];
        if (slot.tag != item.tag || other[slot.index].bytes != item.word) continue;
        other.entries_[slot.index].count += item.count;
        entries_[index].count = 0;
        break;
      }
    }
  }
}

void WordTable::weigh(std::size_t size, std::int64_t count) {
  if (size > static_cast<std::size_t>(kMaxWeight) || count > (kMaxWeight - weight_) / static_cast<std::int64_t>(size)) {
    throw std::overflow_error("more than 2^62 bytes of words");
  }
  total_ += count;
  weight_ += count * static_cast<std::int64_t>(size);
}

void WordTable::count(std::string_view word, std::uint32_t tag, std::int64_t count) {
  if ((size() + 1) * 3 > slots_.size() * 2) grow();
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t place = tag & mask;; place = (place + 1) & mask) {
    Slot& slot = slots_[place];
    if (slot.index == kEmpty) {
      if (size() >= kEmpty) throw std::length_error("2^32 - 1 distinct words or more");
      slot = {tag, static_cast<std::uint32_t>(size())};
      entries_.back().count = count;
      arena_.insert(arena_.end(), word.begin(), word.end());
      entries_.push_back({arena_.size(), 0});
      return;
    }
    if (slot.tag == tag && (*this)[slot.index].bytes == word) {
      entries_[slot.index].count += count;
      return;
    }
  }
}

void WordTable::grow() {
  LargeVector<Slot> larger(std::max<std::size_t>(1024, slots_.size() * 2), Slot{0, kEmpty});
  const std::size_t mask = larger.size() - 1;
  for (const Slot& old : slots_) {
    if (old.index == kEmpty) continue;
    std::size_t place = old.tag & mask;
    while (larger[place].index != kEmpty) place = (place + 1) & mask;
    larger[place] = old;
  }
  slots_.swap(larger);
}

void PretokenCounter::add(std::string_view text) {
  Scanner scanner(text);
  for (std::string_view word = scanner.next(); !word.empty(); word = scanner.next()) table_.add_later(word);
  table_.flush();
  bytes_ += text.size();
}

void PretokenCounter::merge(const PretokenCounter& other) {
  if (this == &other) throw std::invalid_argument("a counter cannot be merged into itself");
  table_.add_all(other.table_);
  bytes_ += other.bytes_;
}

std::vector<Word> PretokenCounter::words() const {
  std::vector<Word> words = words_by_count();
  std::sort(words.begin(), words.end(), [](const Word& a, const Word& b) { return a.count != b.count ? a.count > b.count : a.bytes < b.bytes; });
  return words;
}

std::vector<Word> PretokenCounter::words_by_count() const {
  std::vector<Word> words;
  words.reserve(table_.size());
  for (std::size_t index = 0; index < table_.size(); ++index) words.push_back(table_[index]);
  std::stable_sort(words.begin(), words.end(), [](const Word& a, const Word& b) { return a.count > b.count; });
  return words;
}

}  // namespace hanlin
