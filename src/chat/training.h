// Conversations as token ids: prompts as a server sends them, and training samples with the loss on what the
// assistant says, its end token included.
//
// A sample is prompt + reply, the prompt being exactly the ids that a server would send for that turn, and the reply
// encoded by itself, since a model continues from there. Where the next turn's prompt begins with the ids of the
// sample so far (v3, v3-0324, v3.1 without thinking), the conversation stays one sample; where the template rewrites
// the past (r1 and thinking v3.1 drop its reasoning), it becomes one sample a turn, so that every reply is trained
// behind the prompt that it will meet.
#pragma once

#include <cstdint>
#include <vector>

#include "chat/template.h"
#include "tokenizer/tokenizer.h"

namespace fathom::chat {

// Appends the ids of segments. Control marks become their ids, text between them is encoded as text. A mark <think> or
// </think> that the tokenizer has no token for (V3's of December 2024) is text, as HF encodes it. Throws ConfigError:
// another mark that the tokenizer lacks.
void encode_segments(const Segments& segments, const tokenizer::Tokenizer& tokenizer,
                     tokenizer::EncodeScratch& scratch, std::vector<int32_t>& out);

enum class TrainOn {
  assistant,  // every reply of the assistant that has weight
  last,       // only the last one
  all         // every token but the first
};

enum class Thinking {
  automatic,  // v3.1: on for replies that have reasoning
  on,
  off
};

struct TrainingOptions {
  Template which = Template::v3;
  TrainOn train_on = TrainOn::assistant;
  Thinking thinking = Thinking::automatic;
  bool mend_tool_calls = false;
  bool tools_in_system_prompt = false;
};

struct TrainingSample {
  std::vector<int32_t> ids;
  std::vector<uint8_t> trained;  // per id: 1 where it is a target with loss; the first never is
  int64_t num_trained = 0;
};

struct TrainingNotes {
  int64_t trained_replies = 0;
  int64_t empty_replies = 0;              // neither content nor calls nor reasoning: not trained
  int64_t dropped_reasoning = 0;          // of trained replies: the template has no place for it
  int64_t replies_without_reasoning = 0;  // trained behind a prompt that opens thinking
  int64_t dropped_tools = 0;              // conversations whose tool definitions no prompt shows
  int64_t dropped_messages = 0;           // behind the last trained reply
  int64_t split_conversations = 0;        // became more than one sample
  void add(const TrainingNotes& other);
};

// No sample where nothing would be trained. Throws DataError (invalid UTF-8), ConfigError (encode_segments).
std::vector<TrainingSample> training_samples(const Conversation& conversation, const TrainingOptions& options,
                                             const tokenizer::Tokenizer& tokenizer,
                                             tokenizer::EncodeScratch& scratch, TrainingNotes& notes);

}  // namespace fathom::chat
