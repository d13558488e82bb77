#include "encoder.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <queue>
#include <stdexcept>
#include <unordered_map>

#include "counter.hpp"
#include "scanner.hpp"

namespace hanlin {

namespace {

constexpr Id kNoToken = 0xFFFFFFFF;
constexpr std::size_t kShort = 64;  // units up to which scanning all ranks beats a queue
constexpr std::uint32_t kCharTable = 0x10000;

}  // namespace

void MergeTable::reserve(std::size_t merges) {
  const std::size_t size = std::bit_ceil(std::max<std::size_t>(merges * 3 / 2, 16));
  slots_.assign(size, kFree);
  mask_ = size - 1;
  shift_ = 64 - static_cast<unsigned>(std::countr_zero(size));
}

void MergeTable::insert(Id left, Id right, std::uint32_t rank) {
  const std::uint64_t key = key_of(left, right);
  std::size_t slot = home(key);
  for (; slots_[slot] != kFree; slot = (slot + 1) & mask_) {
    if (slots_[slot] >> 22 == key) return;
  }
  slots_[slot] = key << 22 | rank;
}

Encoder::Encoder(std::vector<std::string> tokens, std::size_t ordinary, std::vector<Merge> merges)
    : tokens_(std::move(tokens)), ordinary_(ordinary), merges_(std::move(merges)) {
  std::fill(std::begin(byte_ids_), std::end(byte_ids_), kNoToken);
  for (std::size_t id = 0; id < std::min(ordinary_, tokens_.size()); ++id) {
    if (tokens_[id].size() == 1) byte_ids_[static_cast<unsigned char>(tokens_[id][0])] = static_cast<Id>(id);
  }
  check();
  table_.reserve(merges_.size());
  for (std::size_t rank = 0; rank < merges_.size(); ++rank) table_.insert(merges_[rank].left, merges_[rank].right, static_cast<std::uint32_t>(rank));
  if (is_aligned()) {
    std::vector<Id> ids(kCharTable, kNoToken);
    Scratch scratch;
    std::vector<Id> encoded;
    for (std::size_t id = 0; id < ordinary_; ++id) {
      const std::string& bytes = tokens_[id];
      if (bytes.empty()) continue;
      const Unit unit = decode_unit(bytes, 0);
      if (unit.size != bytes.size() || unit.code_point >= kCharTable) continue;
      encoded.clear();
      encode_pretoken(bytes, encoded, scratch);
      if (encoded.size() == 1) ids[unit.code_point] = encoded[0];
    }
    char_ids_.swap(ids);
    aligned_ = true;
  }
  index_words();
  if (aligned_) index_joints();
}

void Encoder::check() const {
  if (tokens_.size() > MergeTable::kMaxTokens) throw std::invalid_argument("more than 2^21 - 1 tokens");
  if (merges_.size() >= MergeTable::kNoRank) throw std::invalid_argument("2^22 - 1 merges or more");
  if (ordinary_ > tokens_.size()) throw std::invalid_argument("more ordinary tokens than tokens");
  for (unsigned byte = 0; byte < 256; ++byte) {
    if (byte_ids_[byte] == kNoToken) throw std::invalid_argument("byte " + std::to_string(byte) + " has no token");
  }
  for (std::size_t rank = 0; rank < merges_.size(); ++rank) {
    const Merge& merge = merges_[rank];
    const bool known = merge.left < ordinary_ && merge.right < ordinary_ && merge.result < ordinary_;
    if (!known || tokens_[merge.left] + tokens_[merge.right] != tokens_[merge.result]) {
      throw std::invalid_argument("merge " + std::to_string(rank) + " does not spell a token of the vocabulary");
    }
  }
}

// Whether encoding may start from whole characters. True if no merge mixes pieces of a character with anything outside it, and if
// every token is put together before it is used: then a character is complete by the time any merge with its neighbours could come.
bool Encoder::is_aligned() const {
  std::vector<std::uint32_t> made(tokens_.size(), 0);  // one past the last rank that makes the token
  for (std::size_t rank = 0; rank < merges_.size(); ++rank) made[merges_[rank].result] = static_cast<std::uint32_t>(rank + 1);
  for (std::size_t rank = 0; rank < merges_.size(); ++rank) {
    const Merge& merge = merges_[rank];
    if (made[merge.left] > rank || made[merge.right] > rank) return false;
    const Shape result = shape_of(tokens_[merge.result]);
    const bool within = result.piece || result.characters == 1;
    const bool between = result.whole && shape_of(tokens_[merge.left]).whole && shape_of(tokens_[merge.right]).whole;
    if (!within && !between) return false;
  }
  return true;
}

// Tokens that are the encoding of their own bytes: a pre-token equal to one of them needs no merging.
void Encoder::index_words() {
  words_.assign(std::bit_ceil(std::max<std::size_t>(ordinary_ * 2, 16)), {0, 0, kNoWord});
  const std::size_t mask = words_.size() - 1;
  std::vector<WordSlot> found;
  std::string spellings;
  Scratch scratch;
  std::vector<Id> encoded;
  for (std::size_t id = 0; id < ordinary_; ++id) {
    encoded.clear();
    if (tokens_[id].empty() || tokens_[id].size() >> kSizeBits != 0) continue;
    encode_pretoken(tokens_[id], encoded, scratch);
    if (encoded.size() != 1) continue;
    const auto size = static_cast<std::uint32_t>(tokens_[id].size());
    found.push_back({hash_bytes(tokens_[id]), static_cast<std::uint32_t>(spellings.size()), encoded[0] << kSizeBits | size});
    spellings += tokens_[id];  // at most 2^21 tokens of 2^11 bytes: below 2^32
  }
  word_bytes_.swap(spellings);
  for (const WordSlot& word : found) {
    std::size_t slot = word.hash & mask;
    while (words_[slot].id_and_size != kNoWord) slot = (slot + 1) & mask;
    words_[slot] = word;
    longest_word_ = std::max(longest_word_, word.size());
  }
}

void Encoder::index_joints() {
  std::size_t pairs = 0;
  const auto each_pair = [&](auto&& visit) {
    for (std::size_t id = 0; id < ordinary_; ++id) {
      std::uint32_t previous = kInvalid;
      for (std::size_t position = 0; position < tokens_[id].size();) {
        const Unit unit = decode_unit(tokens_[id], position);
        if (previous != kInvalid && unit.code_point != kInvalid) visit(previous, unit.code_point);
        previous = unit.code_point;
        position += unit.size;
      }
    }
  };
  each_pair([&](std::uint32_t, std::uint32_t) { ++pairs; });
  JointSet joints(pairs);
  each_pair([&](std::uint32_t left, std::uint32_t right) { joints.add(left, right); });
  joints_ = std::move(joints);
}

bool Encoder::whole_word(std::string_view word, Id& id) const {
  if (word.size() > longest_word_) return false;  // also before the index is made
  const std::size_t mask = words_.size() - 1;
  const std::uint64_t hash = hash_bytes(word);
  for (std::size_t slot = hash & mask; words_[slot].id_and_size != kNoWord; slot = (slot + 1) & mask) {
    const WordSlot& found = words_[slot];
    if (found.hash == hash && found.size() == word.size() && std::memcmp(word_bytes_.data() + found.begin, word.data(), word.size()) == 0) {
      id = found.id();
      return true;
    }
  }
  return false;
}

void Encoder::encode(std::string_view text, std::vector<Id>& ids, Scratch& scratch) const {
  Scanner scanner(text);
  for (std::string_view word = scanner.next(); !word.empty(); word = scanner.next()) encode_pretoken(word, ids, scratch);
}

void Encoder::encode_pretoken(std::string_view word, std::vector<Id>& ids, Scratch& scratch) const {
  if (joints_.empty()) return encode_whole(word, ids, scratch);
  const std::size_t already = ids.size();
  std::size_t begin = 0, units = 0;  // of the piece that is open
  std::uint32_t previous = 0;
  Id first = kNoToken, second = kNoToken;  // its first two characters
  const auto close = [&](std::size_t end) {
    if (units == 1 && first != kNoToken) {
      ids.push_back(first);
    } else if (units == 2 && first != kNoToken && second != kNoToken) {
      const std::uint32_t rank = table_.rank(first, second);
      if (rank != MergeTable::kNoRank) {
        ids.push_back(merges_[rank].result);
      } else {
        ids.push_back(first);
        ids.push_back(second);
      }
    } else if (units > 0) {
      encode_whole(word.substr(begin, end - begin), ids, scratch);
    }
    begin = end;
    units = 0;
  };
  for (std::size_t position = 0; position < word.size();) {
    const Unit unit = decode_unit(word, position);
    if (unit.code_point == kInvalid) {  // stray bytes may be merged with pieces of the character before them
      ids.resize(already);
      return encode_whole(word, ids, scratch);
    }
    if (units > 0 && !joints_.has(previous, unit.code_point)) close(position);
    const Id id = unit.code_point < kCharTable ? char_ids_[unit.code_point] : kNoToken;
    if (units == 0) {
      first = id;
    } else if (units == 1) {
      second = id;
    }
    ++units;
    previous = unit.code_point;
    position += unit.size;
  }
  close(word.size());
}

void Encoder::encode_whole(std::string_view word, std::vector<Id>& ids, Scratch& scratch) const {
  Id id;
  if (whole_word(word, id)) {
    ids.push_back(id);
    return;
  }
  std::vector<Id>& parts = scratch.ids;
  parts.clear();
  if (char_ids_.empty()) {
    for (const char byte : word) parts.push_back(byte_ids_[static_cast<unsigned char>(byte)]);
  } else {
    for (std::size_t position = 0; position < word.size();) {
      const Unit unit = decode_unit(word, position);
      const std::size_t end = position + unit.size;
      // A stray continuation byte may be merged with the last bytes of the character before it: that character starts as bytes.
      const bool strays_follow = end < word.size() && is_continuation(static_cast<unsigned char>(word[end]));
      const Id whole = unit.code_point < kCharTable && !strays_follow ? char_ids_[unit.code_point] : kNoToken;
      if (whole != kNoToken) {
        parts.push_back(whole);
        position = end;
      }
      while (position < end) parts.push_back(byte_ids_[static_cast<unsigned char>(word[position++])]);
    }
  }
  if (parts.size() <= kShort) {
    merge_short(parts, scratch);
  } else {
    merge_long(parts, scratch);
  }
  ids.insert(ids.end(), parts.begin(), parts.end());
}

// ranks[i] is the rank of the pair (ids[i], ids[i + 1]).
void Encoder::merge_short(std::vector<Id>& ids, Scratch& scratch) const {
  if (ids.size() < 2) return;
  std::vector<std::uint32_t>& ranks = scratch.ranks;
  ranks.resize(ids.size() - 1);
  for (std::size_t at = 0; at + 1 < ids.size(); ++at) ranks[at] = table_.rank(ids[at], ids[at + 1]);
  while (!ranks.empty()) {
    const auto best = std::min_element(ranks.begin(), ranks.end());
    if (*best == MergeTable::kNoRank) break;
    const auto at = static_cast<std::size_t>(best - ranks.begin());
    ids[at] = merges_[*best].result;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    ranks.erase(best);
    if (at > 0) ranks[at - 1] = table_.rank(ids[at - 1], ids[at]);
    if (at + 1 < ids.size()) ranks[at] = table_.rank(ids[at], ids[at + 1]);
  }
}

namespace {

// Places to visit, by rank: the lowest rank first, and its places in ascending order.
class Agenda {
 public:
  bool empty() const { return ranks_.empty(); }
  std::uint32_t lowest() const { return ranks_.top(); }

  void add(std::uint32_t rank, std::uint32_t place) {
    if (rank != last_rank_) {
      const auto [found, inserted] = places_.try_emplace(rank);
      if (inserted) ranks_.push(rank);
      last_rank_ = rank;
      last_ = &found->second;
    }
    last_->push_back(place);
  }

  std::vector<std::uint32_t> take_lowest() {
    const auto found = places_.find(ranks_.top());
    std::vector<std::uint32_t> places = std::move(found->second);
    places_.erase(found);
    ranks_.pop();
    last_rank_ = MergeTable::kNoRank;
    if (!std::is_sorted(places.begin(), places.end())) std::sort(places.begin(), places.end());
    return places;
  }

 private:
  std::unordered_map<std::uint32_t, std::vector<std::uint32_t>> places_;
  std::priority_queue<std::uint32_t, std::vector<std::uint32_t>, std::greater<>> ranks_;
  std::uint32_t last_rank_ = MergeTable::kNoRank;  // the rank last added to, and its places: mostly the next one's too
  std::vector<std::uint32_t>* last_ = nullptr;
};

}  // namespace

// The tokens as a linked list in arrays; an entry of the agenda is out of date where ranks[place] is another. All places of one rank are
// visited in one sweep, which is what keeps long runs in the cache; only in a vocabulary that uses tokens before it makes
// them can a sweep uncover a lower rank, and is then cut short.
void Encoder::merge_long(std::vector<Id>& ids, Scratch& scratch) const {
  if (ids.size() >= kNoToken) throw std::length_error("a pre-token of 2^32 bytes or more");
  const auto size = static_cast<std::uint32_t>(ids.size());
  std::vector<std::uint32_t>&previous = scratch.previous, &next = scratch.next, &ranks = scratch.ranks;
  previous.resize(size);
  next.resize(size);
  ranks.resize(size);
  Agenda agenda;
  const auto update = [&](std::uint32_t at) {
    ranks[at] = next[at] < size ? table_.rank(ids[at], ids[next[at]]) : MergeTable::kNoRank;
    if (ranks[at] != MergeTable::kNoRank) agenda.add(ranks[at], at);
  };
  for (std::uint32_t at = 0; at < size; ++at) {
    previous[at] = at - 1;
    next[at] = at + 1;
    update(at);
  }
  while (!agenda.empty()) {
    const std::uint32_t rank = agenda.lowest();
    const std::vector<std::uint32_t> places = agenda.take_lowest();
    for (std::size_t index = 0; index < places.size(); ++index) {
      const std::uint32_t at = places[index];
      if (ranks[at] != rank) continue;
      const std::uint32_t gone = next[at];
      ids[at] = merges_[rank].result;
      ranks[gone] = MergeTable::kNoRank;
      next[at] = next[gone];
      if (next[at] < size) previous[next[at]] = at;
      if (at > 0) update(previous[at]);
      update(at);
      if (!agenda.empty() && agenda.lowest() < rank) {
        for (++index; index < places.size(); ++index) agenda.add(rank, places[index]);
      }
    }
  }
  std::uint32_t kept = 0;
  for (std::uint32_t at = 0; at < size; at = next[at]) ids[kept++] = ids[at];
  ids.resize(kept);
}

bool Encoder::decode(Id id, std::string& bytes) const {
  if (id >= tokens_.size()) return false;
  bytes += tokens_[id];
  return true;
}

}  // namespace hanlin
