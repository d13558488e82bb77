// Which tokens can come out of the encoder at all. A vocabulary entry that no text produces is a row of the embedding that
// is never trained; it shows that the trainer and the encoder disagree.
//
// A token is reachable if the encoding of some byte string contains it. That is shown by finding one: the token's own bytes; these
// between characters of other classes (a token of white space may depend on what follows); and, for a token that begins or
// ends inside a character, with that character completed in every way.
#pragma once

#include <vector>

#include "encoder.hpp"

namespace hanlin {

// Ordinary tokens for which no such string was found.
std::vector<Id> unreachable(const Encoder& encoder);

}  // namespace hanlin
