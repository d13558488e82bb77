#include "trainer.hpp"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "learner.hpp"
#include "unicode.hpp"

namespace hanlin {

namespace {

UnitWords byte_words(const std::vector<Word>& words) {
  UnitWords result;
  for (unsigned byte = 0; byte < 256; ++byte) result.alphabet.emplace_back(1, static_cast<char>(byte));
  for (const Word& word : words) {
    if (word.bytes.size() < 2) continue;
    result.begin_word(word.count);
    for (const char byte : word.bytes) result.units.push_back(static_cast<unsigned char>(byte));
    result.end_word();
  }
  return result;
}

// The same words over characters, and the characters themselves as words.
struct CharacterView {
  UnitWords words;
  std::vector<std::int64_t> counts;  // of each unit of `words`
};

CharacterView character_words(const std::vector<Word>& words) {
  CharacterView view;
  std::unordered_map<std::uint32_t, Id> ids;  // by code point
  std::vector<Id> run;
  const auto flush = [&](std::int64_t count) {
    if (run.size() > 1) {
      view.words.begin_word(count);
      view.words.units.insert(view.words.units.end(), run.begin(), run.end());
      view.words.end_word();
    }
    run.clear();
  };
  for (const Word& word : words) {
    for (std::size_t position = 0; position < word.bytes.size();) {
      const Unit unit = decode_unit(word.bytes, position);
      if (unit.code_point == kInvalid) {
        flush(word.count);
      } else {
        const auto [found, inserted] = ids.try_emplace(unit.code_point, static_cast<Id>(view.counts.size()));
        if (inserted) {
          view.words.alphabet.emplace_back(word.bytes.substr(position, unit.size));
          view.counts.push_back(0);
        }
        view.counts[found->second] += word.count;
        run.push_back(found->second);
      }
      position += unit.size;
    }
    flush(word.count);
  }
  return view;
}

// Characters, the most frequent first, as words over bytes.
template <typename Characters>
UnitWords words_of_characters(const Characters& characters) {
  std::vector<Word> words;
  for (const auto& character : characters) words.push_back({character.bytes, character.count});
  return byte_words(words);
}

constexpr std::size_t kMany = 256;  // merges between two reports

// Learning can be stopped while pairs are counted, too.
std::function<void()> pauses(const TrainProgress& progress) {
  return progress ? [&progress] { progress(0); } : std::function<void()>();
}

// Whether a token is one character of several bytes.
bool is_wide_character(std::string_view bytes) { return bytes.size() > 1 && bytes.size() <= 4 && decode_unit(bytes, 0).size == bytes.size(); }

// Takes at each step the better candidate of two learners, down to the count `least`; `pieces` may be absent. A character is put together
// before it is merged with others: a matter of course where counts are exact, but thinned ones may say that a pair is more frequent.
std::vector<LearntMerge> learn(Learner* pieces, Learner& tokens, std::int64_t least, const TrainOptions& options, const TrainProgress& progress) {
  std::vector<LearntMerge> merges;
  std::unordered_set<std::string> whole;  // characters that have been put together
  const auto is_ready = [&](Id id) {
    const std::string_view spelling = tokens.spelling(id);
    return pieces == nullptr || !is_wide_character(spelling) || whole.count(std::string(spelling)) > 0;
  };
  Learner::Candidate piece{}, token{};
  while (merges.size() < options.new_tokens) {
    const bool has_token = tokens.peek(token);
    const bool too_early = has_token && !(is_ready(token.left) && is_ready(token.right));
    const bool has_piece = pieces != nullptr && pieces->peek(piece) && (piece.count >= least || too_early);
    if (!has_piece && !has_token) break;
    const bool take_piece = has_piece && (too_early || !has_token || piece.count >= token.count);
    Learner& learner = take_piece ? *pieces : tokens;
    const Learner::Candidate best = take_piece ? piece : token;
    merges.push_back({std::string(learner.spelling(best.left)), std::string(learner.spelling(best.right)), best.count});
    if (take_piece) whole.insert(merges.back().left + merges.back().right);
    learner.merge();
    if (progress && (merges.size() < kMany || merges.size() % kMany == 0)) progress(merges.size());  // the first take longest
  }
  if (progress) progress(merges.size());
  return merges;
}

// Learns down to a guess at the last merge's count, lower each time it was too high: a pair that is rarer when it is born can never be
// merged, and need not be remembered.
std::vector<LearntMerge> train_plain(const std::vector<Word>& words, const TrainOptions& options, const TrainProgress& progress) {
  Census census;
  for (std::size_t index = 0; index < words.size(); ++index) {
    if (progress && index % (1 << 18) == 0) progress(0);
    census.add_word(words[index].bytes, words[index].count);
  }
  std::int64_t least = std::max(options.min_frequency, census.floor_that_leaves(2 * options.new_tokens));
  while (true) {
    Learner tokens(byte_words(words), {least, options.max_characters, pauses(progress)});
    std::vector<LearntMerge> merges = learn(nullptr, tokens, least, options, progress);
    if (merges.size() == options.new_tokens || least <= options.min_frequency) return merges;
    least = std::max(options.min_frequency, least / 4);
  }
}

}  // namespace

std::vector<LearntMerge> train(const std::vector<Word>& words, const TrainOptions& options, const TrainProgress& progress) {
  const LearnerLimits limits{options.min_frequency, options.max_characters, pauses(progress)};
  if (!options.aligned) return train_plain(words, options, progress);
  CharacterView view = character_words(words);
  std::vector<Word> characters;
  for (std::size_t unit = 0; unit < view.counts.size(); ++unit) characters.push_back({view.words.alphabet[unit], view.counts[unit]});
  std::sort(characters.begin(), characters.end(), [](const Word& a, const Word& b) { return a.count > b.count; });
  Learner pieces(words_of_characters(characters), {options.min_frequency, 0});
  Learner tokens(std::move(view.words), limits);
  return learn(&pieces, tokens, options.min_frequency, options, progress);
}

PieceTraining train_pieces(PieceCounter& counter, const TrainOptions& options, const TrainProgress& progress) {
  PieceTraining result{{}, std::max(options.min_frequency, counter.floor()), false};
  Learner pieces(words_of_characters(counter.census().characters()), {options.min_frequency, 0});
  Learner tokens(counter.take_words(), {result.least, options.max_characters, pauses(progress)});
  result.merges = learn(&pieces, tokens, result.least, options, progress);
  result.complete = result.merges.size() == options.new_tokens || result.least <= options.min_frequency;
  return result;
}

}  // namespace hanlin
