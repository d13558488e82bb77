#include "bigram_counts.hpp"

#include <algorithm>
#include <functional>
#include <new>
#include <stdexcept>

#include "file.hpp"
#include "scanner.hpp"

namespace hanlin {

namespace {

constexpr std::int64_t kFew = 4096;
constexpr Id kNobody = 0xFFFFFFFF;
constexpr std::int64_t kMaxWeight = std::int64_t{1} << 62;

// Zeroed memory that costs nothing before it is touched.
template <typename T>
T* untouched(std::size_t size) {
  auto* memory = static_cast<T*>(std::calloc(size, sizeof(T)));
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

Id* Alphabet::zeros() { return untouched<Id>(kCodePoints); }

BigramTable::BigramTable() : square_(untouched<std::uint32_t>(std::size_t{kSquare} * kSquare)), slots_(1024) {}

std::size_t BigramTable::locate(std::uint32_t key) const {
  const std::uint64_t hash = key * 0x9E3779B97F4A7C15ull;
  const std::size_t mask = slots_.size() - 1;
  std::size_t slot = static_cast<std::size_t>(hash >> 32) & mask;
  while (slots_[slot].count != 0 && slots_[slot].key != key) slot = (slot + 1) & mask;
  return slot;
}

std::int64_t BigramTable::count_at_rank(std::size_t rank) const {
  std::vector<std::size_t> few(kFew, 0);  // bigrams by count, while that is small: most are rare
  std::vector<std::int64_t> many;
  each([&](Id, Id, std::int64_t count) { count < kFew ? void(++few[static_cast<std::size_t>(count)]) : many.push_back(count); });
  if (rank < many.size()) {
    const auto place = many.begin() + static_cast<std::ptrdiff_t>(rank);
    std::nth_element(many.begin(), place, many.end(), std::greater<>());
    return *place;
  }
  std::size_t passed = many.size();
  for (std::int64_t count = kFew - 1; count > 0; --count) {
    passed += few[static_cast<std::size_t>(count)];
    if (rank < passed) return count;
  }
  return 0;
}

void BigramTable::add_slowly(Id left, Id right, std::int64_t count) {
  if ((left | right) >= kCompact) {
    map_[key_of(left, right)] += count;
    return;
  }
  if ((left | right) < kSquare) return add_to(square_.get()[left << kSquareBits | right], key_of(left, right), count);
  const std::uint32_t key = left << 16 | right;
  Slot* slot = &slots_[locate(key)];
  if (slot->count == 0) {
    if ((used_ + 1) * 3 > slots_.size() * 2) {
      grow();
      slot = &slots_[locate(key)];
    }
    slot->key = key;
    ++used_;
  }
  add_to(slot->count, key_of(left, right), count);
}

void BigramTable::add_to(std::uint32_t& cell, std::uint64_t key, std::int64_t count) {
  const std::int64_t sum = cell + count, low = std::min<std::int64_t>(sum, kFull - 1);
  cell = static_cast<std::uint32_t>(low);
  if (sum > low) map_[key] += sum - low;
}

void BigramTable::carry(std::uint32_t& cell, std::uint64_t key) {
  map_[key] += cell - 1;
  cell = 1;  // never 0: that is a bigram never seen
}

std::int64_t BigramTable::in_map(std::uint64_t key) const {
  if (map_.empty()) return 0;
  const auto found = map_.find(key);
  return found == map_.end() ? 0 : found->second;
}

void BigramTable::grow() {
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  for (const Slot& slot : old) {
    if (slot.count != 0) slots_[locate(slot.key)] = slot;
  }
}

void BigramCounts::add(std::string_view text) {
  Scanner scanner(text);
  for (std::string_view word = scanner.next(); !word.empty(); word = scanner.next()) count(word, 1);
  bytes_ += text.size();
}

void BigramCounts::add_word(std::string_view word, std::int64_t count) {
  if (count > 0) this->count(word, count);
}

void BigramCounts::count(std::string_view word, std::int64_t times) {
  const auto size = static_cast<std::int64_t>(word.size());
  if (size > 0 && times > (kMaxWeight - weight_) / size) throw std::overflow_error("more than 2^62 bytes of text");
  weight_ += times * size;
  Id previous = kNobody;
  for (std::size_t position = 0; position < word.size();) {
    const Unit unit = decode_unit(word, position);
    position += unit.size;
    if (unit.code_point == kInvalid) {
      previous = kNobody;
      continue;
    }
    const Id id = alphabet_.id_of(unit.code_point);
    if (id == counts_.size()) counts_.push_back(0);
    counts_[id] += times;
    if (previous != kNobody) bigrams_.add(previous, id, times);
    previous = id;
  }
}

void BigramCounts::merge(const BigramCounts& other) {
  if (this == &other) throw std::invalid_argument("bigram counts cannot be merged into themselves");
  if (other.weight_ > kMaxWeight - weight_) throw std::overflow_error("more than 2^62 bytes of text");
  std::vector<Id> ours;
  for (Id id = 0; id < other.alphabet_.size(); ++id) {
    ours.push_back(alphabet_.id_of(other.alphabet_.code_point(id)));
    if (ours.back() == counts_.size()) counts_.push_back(0);
    counts_[ours.back()] += other.counts_[id];
  }
  other.bigrams_.each([&](Id left, Id right, std::int64_t count) { bigrams_.add(ours[left], ours[right], count); });
  bytes_ += other.bytes_;
  weight_ += other.weight_;
}

// Numbers of 64 bits: how many characters there are, then each with its count, then the bigrams as left, right, count to the end.
void BigramCounts::save(const std::string& path) const {
  FileWriter file(path);
  file.put({alphabet_.size(), bytes_, static_cast<std::uint64_t>(weight_)});
  for (Id id = 0; id < alphabet_.size(); ++id) file.put({alphabet_.code_point(id), static_cast<std::uint64_t>(counts_[id])});
  bigrams_.each([&](Id left, Id right, std::int64_t count) { file.put({left, right, static_cast<std::uint64_t>(count)}); });
  file.close();
}

std::unique_ptr<BigramCounts> BigramCounts::load(const std::string& path) {
  FileReader file(path);
  auto bigram_counts = std::make_unique<BigramCounts>();
  std::uint64_t head[3], character[2], bigram[3];
  if (!file.get(head, 3)) file.fail("empty");
  bigram_counts->bytes_ = head[1];
  bigram_counts->weight_ = static_cast<std::int64_t>(head[2]);
  for (std::uint64_t id = 0; id < head[0]; ++id) {
    if (!file.get(character, 2) || character[0] >= kCodePoints || bigram_counts->alphabet_.id_of(static_cast<std::uint32_t>(character[0])) != id) file.fail("damaged");
    bigram_counts->counts_.push_back(static_cast<std::int64_t>(character[1]));
  }
  while (file.get(bigram, 3)) {
    if (bigram[0] >= head[0] || bigram[1] >= head[0]) file.fail("damaged");
    bigram_counts->bigrams_.add(static_cast<Id>(bigram[0]), static_cast<Id>(bigram[1]), static_cast<std::int64_t>(bigram[2]));
  }
  return bigram_counts;
}

std::int64_t BigramCounts::floor_that_leaves(std::size_t bigrams) const {
  return bigrams == 0 ? bigrams_.count_at_rank(0) + 1 : std::max<std::int64_t>(bigrams_.count_at_rank(bigrams - 1), 1);
}

std::vector<BigramCounts::Character> BigramCounts::characters() const {
  std::vector<Character> characters;
  for (Id id = 0; id < alphabet_.size(); ++id) characters.push_back({utf8(alphabet_.code_point(id)), counts_[id]});
  std::sort(characters.begin(), characters.end(), [](const Character& a, const Character& b) { return a.count > b.count; });
  return characters;
}

}  // namespace hanlin
