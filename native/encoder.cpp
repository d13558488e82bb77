#include "encoder.hpp"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>
#include <stdexcept>
#include <unordered_map>

#include "scanner.hpp"

namespace hanlin {

namespace {

constexpr Id kNoToken = 0xFFFFFFFF;
constexpr std::size_t kShort = 64;  // units up to which scanning all ranks beats a queue
constexpr std::uint32_t kCharTable = 0x10000;
constexpr std::size_t kBatch = 256;  // pieces looked up together

// Mixes one part after the other; only equality matters, so the finish is short.
std::uint64_t hash_parts(const Id* parts, std::size_t size) {
  std::uint64_t hash = size;
  for (std::size_t at = 0; at < size; ++at) hash = (hash ^ parts[at]) * 0x9E3779B97F4A7C15ull;
  return hash ^ hash >> 32;
}

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

Encoder::Encoder(std::vector<std::string> tokens, std::size_t ordinary, std::vector<Merge> merges) : tokens_(std::move(tokens)), ordinary_(ordinary) {
  std::fill(std::begin(byte_ids_), std::end(byte_ids_), kNoToken);
  for (std::size_t id = 0; id < std::min(ordinary_, tokens_.size()); ++id) {
    if (tokens_[id].size() == 1) byte_ids_[static_cast<unsigned char>(tokens_[id][0])] = static_cast<Id>(id);
  }
  check(merges);
  table_.reserve(merges.size());
  results_.reserve(merges.size());
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    table_.insert(merges[rank].left, merges[rank].right, static_cast<std::uint32_t>(rank));
    results_.push_back(merges[rank].result);
    consecutive_ = consecutive_ && results_[rank] == results_[0] + rank;
  }
  if (!merges.empty()) first_result_ = results_[0];
  aligned_ = is_aligned(merges);
  if (aligned_) index_characters();
  index_words();
  if (aligned_) index_joints();
}

void Encoder::check(const std::vector<Merge>& merges) const {
  if (tokens_.size() > MergeTable::kMaxTokens) throw std::invalid_argument("more than 2^21 - 1 tokens");
  if (merges.size() >= MergeTable::kNoRank) throw std::invalid_argument("2^22 - 1 merges or more");
  if (ordinary_ > tokens_.size()) throw std::invalid_argument("more ordinary tokens than tokens");
  for (unsigned byte = 0; byte < 256; ++byte) {
    if (byte_ids_[byte] == kNoToken) throw std::invalid_argument("byte " + std::to_string(byte) + " has no token");
  }
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    const bool known = merge.left < ordinary_ && merge.right < ordinary_ && merge.result < ordinary_;
    if (!known || tokens_[merge.left] + tokens_[merge.right] != tokens_[merge.result]) {
      throw std::invalid_argument("merge " + std::to_string(rank) + " does not spell a token of the vocabulary");
    }
  }
}

// Whether encoding may start from whole characters. True if no merge mixes pieces of a character with anything outside it, and if
// every token is put together before it is used: then a character is complete by the time any merge with its neighbours could come.
bool Encoder::is_aligned(const std::vector<Merge>& merges) const {
  std::vector<std::uint32_t> made(tokens_.size(), 0);  // one past the last rank that makes the token
  for (std::size_t rank = 0; rank < merges.size(); ++rank) made[merges[rank].result] = static_cast<std::uint32_t>(rank + 1);
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    if (made[merge.left] > rank || made[merge.right] > rank) return false;
    const Shape result = shape_of(tokens_[merge.result]);
    const bool within = result.piece || result.characters == 1;
    const bool between = result.whole && shape_of(tokens_[merge.left]).whole && shape_of(tokens_[merge.right]).whole;
    if (!within && !between) return false;
  }
  return true;
}

void Encoder::index_characters() {
  std::vector<Id> found(kCharTable, kNoToken);
  Scratch scratch;
  Ids encoded;
  for (std::size_t id = 0; id < ordinary_; ++id) {
    const std::string& bytes = tokens_[id];
    if (bytes.empty()) continue;
    const Unit unit = decode_unit(bytes, 0);
    if (unit.size != bytes.size() || unit.code_point >= kCharTable) continue;
    encoded.clear();
    cut(bytes, scratch);
    finish(encoded, scratch);
    if (encoded.size() == 1) found[unit.code_point] = encoded[0];
  }
  char_ids_.swap(found);
}

// Tokens that are the encoding of their own bytes: a piece equal to one of them needs no merging. Those of two parts are merges.
void Encoder::index_words() {
  std::vector<WordSlot> found;
  std::vector<Id> spellings;
  std::size_t longest = 0;
  Scratch scratch;
  Ids encoded;
  for (std::size_t id = 0; id < ordinary_; ++id) {
    encoded.clear();
    if (tokens_[id].empty()) continue;
    cut(tokens_[id], scratch);
    const std::vector<Id> parts = scratch.parts;
    finish(encoded, scratch);
    if (encoded.size() != 1 || parts.size() < 3 || parts.size() >> kSizeBits != 0) continue;
    const auto size = static_cast<std::uint32_t>(parts.size());
    found.push_back({hash_parts(parts.data(), size), static_cast<std::uint32_t>(spellings.size()), encoded[0] << kSizeBits | size});
    spellings.insert(spellings.end(), parts.begin(), parts.end());  // at most 2^21 tokens of 2^11 parts: below 2^32
    longest = std::max(longest, parts.size());
  }
  std::vector<WordSlot> slots(std::bit_ceil(found.size() * 2 + 1), {0, 0, kNoWord});
  for (const WordSlot& word : found) {
    std::size_t slot = word.hash & (slots.size() - 1);
    while (slots[slot].id_and_size != kNoWord) slot = (slot + 1) & (slots.size() - 1);
    slots[slot] = word;
  }
  words_.swap(slots);
  word_parts_.swap(spellings);
  longest_word_ = longest;
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
  BigramBloomFilter joints(pairs);
  each_pair([&](std::uint32_t left, std::uint32_t right) { joints.add(left, right); });
  joints_ = std::move(joints);
}

void Encoder::encode(std::string_view text, Ids& ids, Scratch& scratch) const {
  Scanner scanner(text);
  for (std::string_view word = scanner.next(); !word.empty(); word = scanner.next()) {
    cut(word, scratch);
    if (scratch.pieces.size() >= kBatch) finish(ids, scratch);
  }
  finish(ids, scratch);
}

// Adds a pre-token's pieces to those that wait.
void Encoder::cut(std::string_view word, Scratch& scratch) const {
  std::vector<Id>& parts = scratch.parts;
  scratch.pieces.push_back({parts.size(), 0, 0, kNoToken, false});
  if (char_ids_.empty()) {
    for (const char byte : word) parts.push_back(byte_ids_[static_cast<unsigned char>(byte)]);
    return close(scratch);
  }
  const auto push_bytes = [&](std::size_t begin, std::size_t end) {
    while (begin < end) parts.push_back(byte_ids_[static_cast<unsigned char>(word[begin++])]);
  };
  std::uint32_t previous = kInvalid;
  for (std::size_t position = 0; position < word.size();) {
    const Unit unit = decode_unit(word, position);
    if (unit.code_point == kInvalid) scratch.pieces.back().has_strays = true;
    if (previous != kInvalid && unit.code_point != kInvalid && !joints_.empty() && !joints_.has(previous, unit.code_point)) {
      close(scratch);
      scratch.pieces.push_back({parts.size(), 0, 0, kNoToken, false});
    }
    const std::size_t end = position + unit.size;
    // A stray continuation byte may be merged with the last bytes of the character before it: that character starts as bytes.
    const bool strays_follow = end < word.size() && is_continuation(static_cast<unsigned char>(word[end]));
    const Id whole = unit.code_point < kCharTable && !strays_follow ? char_ids_[unit.code_point] : kNoToken;
    if (whole != kNoToken) {
      parts.push_back(whole);
    } else {
      push_bytes(position, end);
    }
    previous = unit.code_point;
    position = end;
  }
  close(scratch);
}

// The last piece is complete: asks for the memory that will be looked at first.
void Encoder::close(Scratch& scratch) const {
  Piece& piece = scratch.pieces.back();
  const Id* parts = scratch.parts.data() + piece.begin;
  piece.size = scratch.parts.size() - piece.begin;
  if (piece.size == 2) {
    table_.prefetch(parts[0], parts[1]);
  } else if (piece.size > 2 && piece.size <= longest_word_ && !piece.has_strays) {
    piece.hash = hash_parts(parts, piece.size);
    prefetch(&words_[piece.hash & (words_.size() - 1)]);
  }
}

// Appends the ids of all pieces that wait. First those that are words are found, and for the others the ranks asked for; so that memory
// is waited for once in a batch, not once in a piece.
void Encoder::finish(Ids& ids, Scratch& scratch) const {
  const Id* parts = scratch.parts.data();
  for (Piece& piece : scratch.pieces) {
    if (piece.size < 3 || piece.has_strays) continue;
    if (piece.size <= longest_word_) piece.word = find_word(piece, parts + piece.begin);
    if (piece.word != kNoToken || piece.size > kShort) continue;
    for (std::size_t at = piece.begin; at + 1 < piece.begin + piece.size; ++at) table_.prefetch(parts[at], parts[at + 1]);
  }
  for (const Piece& piece : scratch.pieces) {
    if (piece.size == 1) {
      ids.push_back(parts[piece.begin]);
    } else if (piece.word != kNoToken) {
      ids.push_back(piece.word);
    } else {
      append_merged(piece, ids, scratch);
    }
  }
  scratch.parts.clear();
  scratch.pieces.clear();
}

Id Encoder::find_word(const Piece& piece, const Id* parts) const {
  const std::size_t mask = words_.size() - 1;
  for (std::size_t slot = piece.hash & mask; words_[slot].id_and_size != kNoWord; slot = (slot + 1) & mask) {
    const WordSlot& found = words_[slot];
    if (found.hash == piece.hash && found.size() == piece.size && std::equal(parts, parts + piece.size, word_parts_.data() + found.begin)) return found.id();
  }
  return kNoToken;
}

void Encoder::append_merged(const Piece& piece, Ids& ids, Scratch& scratch) const {
  Id* parts = scratch.parts.data() + piece.begin;
  if (piece.size == 2) {
    const std::uint32_t rank = table_.rank(parts[0], parts[1]);
    if (rank != MergeTable::kNoRank) {
      ids.push_back(result_of(rank));
    } else {
      ids.insert(ids.end(), parts, parts + 2);
    }
    return;
  }
  const std::size_t left = piece.size <= kShort ? merge_short(parts, piece.size) : merge_long(parts, piece.size, scratch);
  ids.insert(ids.end(), parts, parts + left);
}

// Merges the first `size` parts in place; how many are left. ranks[i] is the rank of the pair (parts[i], parts[i + 1]).
std::size_t Encoder::merge_short(Id* parts, std::size_t size) const {
  std::uint32_t ranks[kShort];
  for (std::size_t at = 0; at + 1 < size; ++at) ranks[at] = table_.rank(parts[at], parts[at + 1]);
  while (size > 1) {
    std::size_t best = 0;
    for (std::size_t at = 1; at + 1 < size; ++at) {
      if (ranks[at] < ranks[best]) best = at;
    }
    if (ranks[best] == MergeTable::kNoRank) break;
    parts[best] = result_of(ranks[best]);
    --size;
    for (std::size_t at = best + 1; at < size; ++at) parts[at] = parts[at + 1];
    for (std::size_t at = best; at + 1 < size; ++at) ranks[at] = ranks[at + 1];
    if (best > 0) ranks[best - 1] = table_.rank(parts[best - 1], parts[best]);
    if (best + 1 < size) ranks[best] = table_.rank(parts[best], parts[best + 1]);
  }
  return size;
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
std::size_t Encoder::merge_long(Id* ids, std::size_t parts, Scratch& scratch) const {
  if (parts >= kNoToken) throw std::length_error("a pre-token of 2^32 bytes or more");
  const auto size = static_cast<std::uint32_t>(parts);
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
      ids[at] = results_[rank];
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
  return kept;
}

bool Encoder::decode(Id id, std::string& bytes) const {
  if (id >= tokens_.size()) return false;
  bytes += tokens_[id];
  return true;
}

}  // namespace hanlin
