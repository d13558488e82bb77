#include "counter.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "scanner.hpp"

namespace hanlin {

namespace {
constexpr std::size_t kEmpty = static_cast<std::size_t>(-1);
constexpr std::int64_t kMaxWeight = std::int64_t{1} << 62;
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

void PretokenCounter::add(std::string_view text) {
  Scanner scanner(text);
  for (std::string_view word = scanner.next(); !word.empty(); word = scanner.next()) add_word(word, 1);
  bytes_ += text.size();
}

void PretokenCounter::add_word(std::string_view word, std::int64_t count) {
  if (word.empty() || count <= 0) return;
  if (word.size() > static_cast<std::size_t>(kMaxWeight) || count > (kMaxWeight - weight_) / static_cast<std::int64_t>(word.size())) {
    throw std::overflow_error("more than 2^62 bytes of pre-tokens");
  }
  total_ += count;
  weight_ += count * static_cast<std::int64_t>(word.size());
  if ((entries_.size() + 1) * 2 > slots_.size()) grow();
  const std::uint64_t hash = hash_bytes(word);
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t slot = hash & mask;; slot = (slot + 1) & mask) {
    if (slots_[slot].entry == kEmpty) {
      slots_[slot] = {hash, entries_.size()};
      entries_.push_back({arena_.size(), word.size(), count});
      arena_.append(word);
      return;
    }
    if (slots_[slot].hash == hash) {
      Entry& entry = entries_[slots_[slot].entry];
      if (entry.size == word.size() && std::memcmp(arena_.data() + entry.offset, word.data(), word.size()) == 0) {
        entry.count += count;
        return;
      }
    }
  }
}

void PretokenCounter::merge(const PretokenCounter& other) {
  if (this == &other) throw std::invalid_argument("a counter cannot be merged into itself");
  for (const Entry& entry : other.entries_) add_word({other.arena_.data() + entry.offset, entry.size}, entry.count);
  bytes_ += other.bytes_;
}

std::vector<Word> PretokenCounter::words() const {
  std::vector<Word> words;
  words.reserve(entries_.size());
  for (const Entry& entry : entries_) words.push_back({{arena_.data() + entry.offset, entry.size}, entry.count});
  std::sort(words.begin(), words.end(), [](const Word& a, const Word& b) { return a.count != b.count ? a.count > b.count : a.bytes < b.bytes; });
  return words;
}

void PretokenCounter::grow() {
  std::vector<Slot> larger(std::max<std::size_t>(1024, slots_.size() * 2), Slot{0, kEmpty});
  const std::size_t mask = larger.size() - 1;
  for (const Slot& old : slots_) {
    if (old.entry == kEmpty) continue;
    std::size_t slot = old.hash & mask;
    while (larger[slot].entry != kEmpty) slot = (slot + 1) & mask;
    larger[slot] = old;
  }
  slots_.swap(larger);
}

}  // namespace hanlin
