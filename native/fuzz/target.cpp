// One fuzz input: train on it, encode it, and hold the core to its promises. A broken promise aborts with its text.
//
// Byte 0 chooses the options; the rest, cut at zero bytes, are the documents.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bigram_counts.hpp"
#include "comparison_key.hpp"
#include "counter.hpp"
#include "encoder.hpp"
#include "json_lines.hpp"
#include "key_file.hpp"
#include "minhash.hpp"
#include "normalization_check.hpp"
#include "overlap.hpp"
#include "phrase_matcher.hpp"
#include "pieces.hpp"
#include "reachability.hpp"
#include "scanner.hpp"
#include "signals.hpp"
#include "trainer.hpp"
#include "vocabulary.hpp"

namespace {

using namespace hanlin;

void require(bool kept, const char* promise) {
  if (kept) return;
  std::fprintf(stderr, "broken promise: %s\n", promise);
  std::abort();
}

// Rank by rank, the leftmost first, on strings.
std::vector<std::string> slow_encode(std::string_view word, const std::map<std::pair<std::string, std::string>, std::size_t>& ranks) {
  std::vector<std::string> parts;
  for (const char byte : word) parts.emplace_back(1, byte);
  while (true) {
    std::size_t best = ranks.size(), at = 0;
    for (std::size_t index = 0; index + 1 < parts.size(); ++index) {
      const auto found = ranks.find({parts[index], parts[index + 1]});
      if (found != ranks.end() && found->second < best) {
        best = found->second;
        at = index;
      }
    }
    if (best == ranks.size()) return parts;
    parts[at] += parts[at + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

void check_merges(const std::vector<LearntMerge>& merges, const TrainOptions& options) {
  require(merges.size() <= options.new_tokens, "no more merges than asked for");
  std::int64_t last = INT64_MAX;
  for (const LearntMerge& merge : merges) {
    require(merge.count <= last && merge.count >= options.min_frequency, "counts of merges fall, down to the least frequency");
    last = merge.count;
    require(!options.aligned || !shape_of(merge.left + merge.right).mixed(), "aligned tokens are whole characters or a piece of one");
  }
}

// Aligned merges learnt from pieces, cut at a floor that is lowered until it is low enough.
std::vector<LearntMerge> train_cut(const std::vector<std::string_view>& documents, const TrainOptions& options) {
  const auto bigram_counts = std::make_shared<BigramCounts>();
  for (const std::string_view document : documents) bigram_counts->add(document);
  for (std::int64_t floor = bigram_counts->floor_that_leaves(documents.size());; floor = std::max(options.min_frequency, floor / 2)) {
    PieceCounter pieces(bigram_counts, floor);
    for (const std::string_view document : documents) pieces.add(document);
    PieceTraining training = train_pieces(pieces, options);
    if (training.complete) return training.merges;
    require(floor > options.min_frequency, "learning down to the least frequency is complete");
  }
}

void run(std::string_view data, std::uint8_t choice) {
  const TrainOptions options{40, 1 + (choice & 1), static_cast<std::size_t>(choice >> 2 & 3), (choice & 2) != 0};
  PretokenCounter counter, backwards;
  std::vector<std::string_view> documents;
  for (std::size_t begin = 0; begin <= data.size();) {
    const std::size_t end = std::min(data.find('\0', begin), data.size());
    documents.push_back(data.substr(begin, end - begin));
    begin = end + 1;
  }
  for (const std::string_view document : documents) counter.add(document);
  for (std::size_t index = documents.size(); index-- > 0;) backwards.add(documents[index]);

  const std::vector<LearntMerge> merges = train(counter.words(), options);
  check_merges(merges, options);
  const std::vector<LearntMerge> again = train(backwards.words(), options);
  require(again.size() == merges.size(), "the order of documents does not matter");
  if (options.aligned && (choice & 0x70) == 0) {  // for one input in eight: the square of bigrams is large, and slow under the sanitizers
    const std::vector<LearntMerge> cut = train_cut(documents, options);
    require(cut.size() == merges.size(), "cutting changes no merge");
    for (std::size_t rank = 0; rank < merges.size(); ++rank) {
      require(cut[rank].left == merges[rank].left && cut[rank].right == merges[rank].right && cut[rank].count == merges[rank].count,
              "cutting changes no merge");
    }
  }

  std::vector<std::string> tokens;
  std::map<std::string, Id> ids;
  for (unsigned byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  for (const LearntMerge& merge : merges) tokens.push_back(merge.left + merge.right);
  for (Id id = 0; id < tokens.size(); ++id) require(ids.emplace(tokens[id], id).second, "no token is made twice");
  std::vector<Merge> ranked;
  std::map<std::pair<std::string, std::string>, std::size_t> ranks;
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const LearntMerge& merge = merges[rank];
    require(merge.left == again[rank].left && merge.right == again[rank].right, "the order of documents does not matter");
    ranked.push_back({ids.at(merge.left), ids.at(merge.right), ids.at(merge.left + merge.right)});
    ranks.emplace(std::pair{merge.left, merge.right}, rank);
  }
  const Encoder encoder(tokens, tokens.size(), ranked);
  require(encoder.aligned() || !options.aligned, "an aligned vocabulary is recognised");

  Encoder::Scratch scratch;
  Ids encoded;
  Ids expected;
  encoder.encode(data, encoded, scratch);
  std::string decoded;
  for (const Id id : encoded) require(encoder.decode(id, decoded), "ids are below the size");
  require(decoded == data, "decoding is the inverse of encoding");

  Scanner scanner(data);
  std::size_t covered = 0;
  for (std::string_view word = scanner.next(); !word.empty(); word = scanner.next()) {
    require(word.data() == data.data() + covered, "pre-tokens lie behind one another");
    covered += word.size();
    for (const std::string& part : slow_encode(word, ranks)) expected.push_back(ids.at(part));
  }
  require(covered == data.size(), "pre-tokens cover the text");
  require(encoded == expected, "the encoder does what ranks say");
  if (options.aligned) require(unreachable(encoder).empty(), "every token is reachable");
}

bool is_utf8(std::string_view text) {
  for (std::size_t position = 0; position < text.size();) {
    const Unit unit = decode_unit(text, position);
    if (unit.code_point == kInvalid) return false;
    position += unit.size;
  }
  return true;
}

// The readers, on what may be JSON and mostly is not; half of the time made to look like it.
void read(std::string_view data, std::uint8_t choice) {
  std::string json(data);
  if ((choice & 0x80) != 0) {
    std::replace(json.begin(), json.end(), '\0', '"');
    json = "{\"text\": \"" + json + "\", \"n\": [" + json + "]}\n{\"text\":\"" + json + "\"}";
  }
  JsonLines reader("text", 2000);
  reader.know({"text"});
  reader.know({"text", "n"});
  TextBatch texts;
  std::size_t lines = 0;
  for (std::size_t begin = 0; begin < json.size();) {
    const std::size_t end = reader.read(json, begin, texts, lines);
    require(end >= begin && end <= json.size(), "reading stays in the block");
    if (end == json.size()) break;
    begin = std::min(json.find('\n', end), json.size() - 1) + 1;  // past the line that is not plain
  }
  for (std::size_t index = 0; index < texts.size(); ++index) require(!texts[index].empty() && is_utf8(texts[index]), "texts are text");
  require(texts.size() <= lines, "a line has one text at most");
  try {
    std::string rest;
    const Vocabulary vocabulary = read_vocabulary((choice & 0x80) != 0 ? "{\"model\": " + json + "}" : json, rest);
    for (const Merge& merge : vocabulary.merges) require(merge.result < vocabulary.tokens.size(), "merges make tokens");
  } catch (const std::invalid_argument&) {
  }
}

// Repetition by counting n-grams one by one.
void repetition(std::string_view data) {
  std::vector<std::uint32_t> characters;
  std::vector<std::uint32_t> occurrences(256);
  for (const char byte : data) {
    characters.push_back(static_cast<unsigned char>(byte));
    ++occurrences[characters.back()];
  }
  Repetition repetition;
  for (int round = 0; round < 2; ++round) {  // its memory is used again
    const Repetition::Counts counts = repetition.count(characters, occurrences);
    for (std::size_t n = 2; n <= Repetition::kLongest; ++n) {
      std::map<std::string_view, std::int64_t> grams;
      std::int64_t top = 0, repeated = 0;
      for (std::size_t begin = 0; begin + n <= data.size(); ++begin) {
        const std::int64_t count = ++grams[data.substr(begin, n)];
        top = std::max(top, count);
        repeated += count > 1;
      }
      require(counts.top[n] == top && counts.repeated[n] == repeated, "n-grams are counted exactly");
    }
  }
}

// Cleaning, on bytes that may not be text.
void clean(std::string_view data) {
  static const auto table = [] {
    std::vector<std::uint32_t> flags(kCodePoints);
    for (std::uint32_t point = 0; point < kCodePoints; ++point) flags[point] = point * 0x9E3779B9u & ~(point < 128 || point > 0x3000 ? kSpace | kBreak | kInvisible : 0u);
    return std::make_shared<const CharacterTable>(std::move(flags));
  }();
  static SignalCounter counter(table, {"\xE6\x9B\xB4\xE5\xA4\x9A", "more"});
  static const PhraseMatcher finder(table, {{{"ab", "!"}, 100}, {{"\xE6\x9B\xB4\xE5\xA4\x9A"}, 1000}});
  std::vector<std::uint64_t> hashes;
  const Signals signals = counter.measure(data, hashes);
  require(static_cast<std::size_t>(signals.lines) == hashes.size() && signals.repeated_lines <= signals.lines, "every line has a hash");
  require(signals.word <= static_cast<std::int64_t>(data.size()) && signals.entropy >= 0, "counts are of characters");
  std::vector<PhraseMatcher::Line> lines;
  finder.find(data, lines);
  for (const PhraseMatcher::Line& line : lines) require(line.groups != 0 && line.groups < 4, "a line is found for a reason");
  require(needs_normalization(data, *table) < 1u << 9, "reasons are known ones");
}

// Comparison keys: with pages on which everything but white space stays, what is left is the text without it.
void strip(std::string_view data) {
  ComparisonKeyTable table;
  std::string key, expected;
  for (ComparisonKeyTable::Outcome outcome = table.append(data, key); outcome.what != ComparisonKeyTable::Outcome::Mapped; outcome = table.append(data, key)) {
    require(outcome.what == ComparisonKeyTable::Outcome::Undefined && key.empty(), "a page is asked for once");
    std::vector<std::vector<std::uint32_t>> mapped;
    for (std::uint32_t point = outcome.page * ComparisonKeyTable::kPageSize; mapped.size() < ComparisonKeyTable::kPageSize; ++point) {
      const std::uint32_t kind = point == ' ' ? ComparisonKeyTable::Dropped : ComparisonKeyTable::Kept;
      mapped.push_back({kind << 24 | point});
    }
    table.define(outcome.page, mapped, std::vector<bool>(ComparisonKeyTable::kPageSize));
  }
  for (std::size_t position = 0; position < data.size();) {
    const Unit unit = decode_unit(data, position);
    if (unit.code_point != kInvalid && unit.code_point != ' ') expected.append(data.substr(position, unit.size));
    position += unit.size;
  }
  require(key == expected, "comparison key is the text without what is dropped");
}

// Two texts, by their shingles and the passages they share, beside sets of strings.
void compare(std::string_view one, std::string_view other) {
  constexpr std::size_t kSize = 4;
  const auto runs = [](std::string_view text) {
    std::vector<std::size_t> begins;
    for (std::size_t position = 0; position < text.size(); position += decode_unit(text, position).size) begins.push_back(position);
    begins.push_back(text.size());
    std::set<std::string_view> found;
    for (std::size_t first = 0; first + kSize < begins.size(); ++first) found.insert(text.substr(begins[first], begins[first + kSize] - begins[first]));
    return found;
  };
  if (!is_utf8(one) || !is_utf8(other)) return;  // stray bytes are all alike to the core
  const std::set<std::string_view> left = runs(one), right = runs(other);
  const auto both = static_cast<double>(std::count_if(left.begin(), left.end(), [&](std::string_view run) { return right.contains(run); }));
  if (!left.empty() && !right.empty()) {
    const Shingler shingler(kSize);
    std::vector<std::uint64_t> a, b;
    HashSorting scratch;
    shingle_set(shingler, one, a, scratch);
    shingle_set(shingler, other, b, scratch);
    require(std::is_sorted(a.begin(), a.end()) && std::is_sorted(b.begin(), b.end()), "sets are sorted");
    require(jaccard(a, b) == both / (static_cast<double>(left.size() + right.size()) - both), "similarity is that of the sets");
  }
  OverlapFinder finder(kSize);
  require(finder.add(one) == !left.empty(), "an item with a run can be found");
  TextBatch texts;
  texts.append(other);
  const std::vector<Overlap> overlaps = finder.find(texts, 1, 1000);
  require(overlaps.empty() == (both == 0), "a shared run is found, and nothing else");
  for (const Overlap& overlap : overlaps) {
    require(overlap.begin < overlap.end && overlap.end <= other.size(), "a passage lies in the text");
    for (const std::string_view run : runs(other.substr(overlap.begin, overlap.end - overlap.begin))) require(left.contains(run), "its runs are the item's");
  }
}

// Documents by keys: those that share the upper part of one are paired, and keys are common to as many as have them.
void pair_up(std::string_view data) {
  std::vector<KeyRecord> records;
  std::map<std::uint64_t, std::set<std::uint32_t>> groups, exact;
  for (std::size_t index = 0; index < data.size(); ++index) {
    const auto byte = static_cast<unsigned char>(data[index]);
    const std::uint64_t key = std::uint64_t{byte & 0x1Fu} << 59 | std::uint64_t{byte} << 20 | (byte >> 5);
    records.push_back({key, static_cast<std::uint32_t>(index / 2)});
    groups[key >> 20].insert(records.back().document);
    exact[key].insert(records.back().document);
  }
  std::set<std::uint64_t> expected, found;
  for (const auto& [key, documents] : groups) {
    for (const std::uint32_t later : documents) {
      for (const std::uint32_t earlier : documents) if (earlier < later) expected.insert(std::uint64_t{later} << 32 | earlier);
    }
  }
  each_pair(records, {data.size(), 0}, 7, [&](std::vector<std::uint64_t>&& pairs) {
    require(std::is_sorted(pairs.begin(), pairs.end()), "pairs ascend");
    found.insert(pairs.begin(), pairs.end());
  });
  require(found == expected, "documents of one key are paired");
  std::vector<std::uint64_t> keys, counts;
  common_keys(records, 2, keys, counts);
  std::size_t common = 0;
  for (const auto& [key, documents] : exact) common += documents.size() >= 2;
  require(keys.size() == common, "common keys are found");
  for (std::size_t index = 0; index < keys.size(); ++index) require(counts[index] == exact[keys[index]].size(), "documents of a key are counted");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0 || size >= 4096) return 0;
  const std::string_view rest{reinterpret_cast<const char*>(data) + 1, size - 1};
  run(rest, data[0]);
  read(rest, data[0]);
  repetition(rest.substr(0, 400));
  clean(rest);
  strip(rest);
  compare(rest.substr(0, rest.size() / 2), rest.substr(rest.size() / 2));
  pair_up(rest.substr(0, 200));
  return 0;
}
