#include "trainer.hpp"

#include <algorithm>
#include <memory>
#include <unordered_map>

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

UnitWords words_of_characters(const CharacterView& view) {
  std::vector<Word> characters;
  for (std::size_t unit = 0; unit < view.counts.size(); ++unit) characters.push_back({view.words.alphabet[unit], view.counts[unit]});
  std::sort(characters.begin(), characters.end(), [](const Word& a, const Word& b) { return a.count > b.count; });
  return byte_words(characters);
}

}  // namespace

std::vector<LearntMerge> train(const std::vector<Word>& words, const TrainOptions& options, const TrainProgress& progress) {
  const LearnerLimits within{options.min_frequency, 0};
  const LearnerLimits between{options.min_frequency, options.max_characters};
  std::unique_ptr<Learner> pieces, tokens;  // merges within characters (aligned only), and all others
  if (options.aligned) {
    CharacterView view = character_words(words);
    pieces = std::make_unique<Learner>(words_of_characters(view), within);
    tokens = std::make_unique<Learner>(std::move(view.words), between);
  } else {
    tokens = std::make_unique<Learner>(byte_words(words), between);
  }

  std::vector<LearntMerge> merges;
  Learner::Candidate piece{}, token{};
  while (merges.size() < options.new_tokens) {
    const bool has_piece = pieces && pieces->peek(piece);
    const bool has_token = tokens->peek(token);
    if (!has_piece && !has_token) break;
    const bool take_piece = has_piece && (!has_token || piece.count >= token.count);
    Learner& learner = take_piece ? *pieces : *tokens;
    const Learner::Candidate best = take_piece ? piece : token;
    merges.push_back({std::string(learner.spelling(best.left)), std::string(learner.spelling(best.right)), best.count});
    learner.merge();
    if (progress && merges.size() % 256 == 0) progress(merges.size());
  }
  if (progress) progress(merges.size());
  return merges;
}

}  // namespace hanlin
