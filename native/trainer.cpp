#include "trainer.hpp"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "layout.hpp"
#include "learner.hpp"
#include "unicode.hpp"

namespace hanlin {

namespace {

std::vector<std::string> all_bytes() {
  std::vector<std::string> alphabet;
  for (unsigned byte = 0; byte < 256; ++byte) alphabet.emplace_back(1, static_cast<char>(byte));
  return alphabet;
}

UnitWords<std::uint32_t> byte_words(const std::vector<Word>& words) {
  UnitWords<std::uint32_t> result;
  result.alphabet = all_bytes();
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
  UnitWords<std::uint32_t> words;
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
UnitWords<std::uint32_t> words_of_characters(const Characters& characters) {
  std::vector<Word> words;
  for (const auto& character : characters) words.push_back({character.bytes, character.count});
  return byte_words(words);
}

constexpr std::size_t kMany = 256;  // merges between two reports
constexpr std::size_t kPause = std::size_t{1} << 18;  // words between two pauses
constexpr std::size_t kManyWords = std::size_t{1} << 18;

// Learning can be stopped while pairs are counted, too.
std::function<void()> pauses(const TrainProgress& progress) {
  return progress ? [&progress] { progress(0); } : std::function<void()>();
}

// Whether a token is one character of several bytes.
bool is_wide_character(std::string_view bytes) { return bytes.size() > 1 && bytes.size() <= 4 && decode_unit(bytes, 0).size == bytes.size(); }

// Takes at each step the better candidate of two learners, down to the count `least`; `pieces` may be absent. A character is put together
// before it is merged with others: a matter of course where counts are exact, but thinned ones may say that a pair is more frequent.
template <typename Symbol>
std::vector<LearntMerge> learn(Learner<std::uint32_t>* pieces, Learner<Symbol>& tokens, std::int64_t least, const TrainOptions& options, const TrainProgress& progress) {
  std::vector<LearntMerge> merges;
  std::unordered_set<std::string> whole;  // characters that have been put together
  const auto is_ready = [&](Id id) {
    const std::string_view spelling = tokens.spelling(id);
    return pieces == nullptr || !is_wide_character(spelling) || whole.count(std::string(spelling)) > 0;
  };
  Learner<std::uint32_t>::Candidate piece{};
  typename Learner<Symbol>::Candidate token{};
  while (merges.size() < options.new_tokens) {
    const bool has_token = tokens.peek(token);
    const bool too_early = has_token && !(is_ready(token.left) && is_ready(token.right));
    const bool has_piece = pieces != nullptr && pieces->peek(piece) && (piece.count >= least || too_early);
    if (!has_piece && !has_token) break;
    const bool take_piece = has_piece && (too_early || !has_token || piece.count >= token.count);
    const auto take = [&](auto& learner, const auto& best) {
      merges.push_back({std::string(learner.spelling(best.left)), std::string(learner.spelling(best.right)), best.count});
      learner.merge();
    };
    if (take_piece) {
      take(*pieces, piece);
      whole.insert(merges.back().left + merges.back().right);
    } else {
      take(tokens, token);
    }
    if (progress && (merges.size() < kMany || merges.size() % kMany == 0)) progress(merges.size());  // the first take longest
  }
  if (progress) progress(merges.size());
  return merges;
}

// The same words over bytes, from a table that is released before anything is learnt.
template <typename Symbol>
UnitWords<Symbol> byte_words(WordTable table, std::size_t threads, const std::function<void()>& pause) {
  std::vector<SizesByWeight> parts(std::max<std::size_t>(threads, 1));
  const auto each = [&](std::size_t part, const std::atomic<bool>& stop, const auto& visit) {
    const std::size_t end = begin_of_part(table.size(), part + 1, parts.size());
    for (std::size_t index = begin_of_part(table.size(), part, parts.size()); index < end && !stop; ++index) {
      if (part == 0 && index % kPause == 0 && pause) pause();
      const Word word = table[index];
      if (word.bytes.size() > 1) visit(word.bytes, word.count);
    }
  };
  in_parallel(parts.size(), [&](std::size_t part, const std::atomic<bool>& stop) {
    each(part, stop, [&](std::string_view word, std::int64_t count) { parts[part][count] += word.size() + 1; });
  });
  UnitWords<Symbol> words;
  words.alphabet = all_bytes();
  lay_out(words, parts, each, [](std::string_view word, Symbol* symbols) {
    return std::transform(word.begin(), word.end(), symbols, [](char byte) { return static_cast<unsigned char>(byte); });
  });
  return words;
}

// A guess at the last merge's count, from the low side: that of bigrams, of which a corpus' distinct words need not all be seen.
std::int64_t guess_least(const WordTable& table, const TrainOptions& options, const std::function<void()>& pause) {
  const std::size_t stride = table.size() < kManyWords ? 1 : 4;
  BigramCounts bigram_counts;
  for (std::size_t index = 0; index < table.size(); index += stride) {
    if (pause && index % kPause == 0) pause();
    bigram_counts.add_word(table[index].bytes, table[index].count);
  }
  return std::max(options.min_frequency, bigram_counts.floor_that_leaves(2 * options.new_tokens));
}

// Learns down to a guess at the last merge's count, lower each time it was too high: a pair that is rarer when it is born can never be
// merged, and need not be remembered.
template <typename Symbol>
std::vector<LearntMerge> learn_plain(WordTable table, const TrainOptions& options, const TrainProgress& progress) {
  const std::function<void()> pause = pauses(progress);
  std::int64_t least = guess_least(table, options, pause);
  UnitWords<Symbol> words = byte_words<Symbol>(std::move(table), options.threads, pause);
  while (true) {
    Learner<Symbol> tokens(std::move(words), {least, options.max_characters, pause, options.threads, options.places_at_once});
    std::vector<LearntMerge> merges = learn(nullptr, tokens, least, options, progress);
    if (merges.size() == options.new_tokens || least <= options.min_frequency) return merges;
    least = std::max(options.min_frequency, least / 4);
    words = tokens.take_words();
  }
}

template <typename Symbol>
std::vector<LearntMerge> learn_pieces(PieceCounter& counter, std::int64_t least, const TrainOptions& options, const TrainProgress& progress) {
  const std::function<void()> pause = pauses(progress);
  Learner<std::uint32_t> pieces(words_of_characters(counter.bigram_counts().characters()), {options.min_frequency, 0});
  Learner<Symbol> tokens(counter.take_words<Symbol>(options.threads, pause), {least, options.max_characters, pause, options.threads, options.places_at_once});
  return learn(&pieces, tokens, least, options, progress);
}

}  // namespace

std::vector<LearntMerge> train(const std::vector<Word>& words, const TrainOptions& options, const TrainProgress& progress) {
  const LearnerLimits limits{options.min_frequency, options.max_characters, pauses(progress)};
  if (!options.aligned) {
    Learner<std::uint32_t> tokens(byte_words(words), limits);
    return learn(nullptr, tokens, options.min_frequency, options, progress);
  }
  CharacterView view = character_words(words);
  std::vector<Word> characters;
  for (std::size_t unit = 0; unit < view.counts.size(); ++unit) characters.push_back({view.words.alphabet[unit], view.counts[unit]});
  std::sort(characters.begin(), characters.end(), [](const Word& a, const Word& b) { return a.count > b.count; });
  Learner<std::uint32_t> pieces(words_of_characters(characters), {options.min_frequency, 0});
  Learner<std::uint32_t> tokens(std::move(view.words), limits);
  return learn(&pieces, tokens, options.min_frequency, options, progress);
}

std::vector<LearntMerge> train_plain(PretokenCounter& counter, const TrainOptions& options, const TrainProgress& progress) {
  WordTable table = counter.take_table();
  return are_narrow(256 + options.new_tokens) ? learn_plain<std::uint16_t>(std::move(table), options, progress)
                                              : learn_plain<std::uint32_t>(std::move(table), options, progress);
}

PieceTraining train_pieces(PieceCounter& counter, const TrainOptions& options, const TrainProgress& progress) {
  PieceTraining result{{}, std::max(options.min_frequency, counter.floor()), false};
  const bool narrow = are_narrow(counter.bigram_counts().alphabet().size() + options.new_tokens);
  result.merges = narrow ? learn_pieces<std::uint16_t>(counter, result.least, options, progress)
                         : learn_pieces<std::uint32_t>(counter, result.least, options, progress);
  result.complete = result.merges.size() == options.new_tokens || result.least <= options.min_frequency;
  return result;
}

}  // namespace hanlin
