#include "tokenizer/added_tokens.h"

#include <algorithm>

#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace fathom::tokenizer {

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    Trie& trie = tries_[tokens_[i].normalized ? 1 : 0];
    insert(trie, static_cast<int32_t>(i));
    trie.has_text_token |= !tokens_[i].is_control();
  }
}

void AddedTokens::insert(Trie& trie, int32_t token) {
  uint32_t at = 0;
  for (const char c : tokens_[static_cast<size_t>(token)].content) {
    const auto byte = static_cast<uint8_t>(c);
    uint32_t child = trie.nodes[at].child;
    while (child != 0 && trie.nodes[child].byte != byte) child = trie.nodes[child].sibling;
    if (child == 0) {
      child = static_cast<uint32_t>(trie.nodes.size());
      Node node;
      node.byte = byte;
      node.sibling = trie.nodes[at].child;
      trie.nodes.push_back(node);
      trie.nodes[at].child = child;
    }
    at = child;
  }
  trie.nodes[at].token = token;
}

void AddedTokens::split_by(const Trie& trie, std::string_view text, uint32_t begin, uint32_t end,
                           bool with_control, std::vector<Segment>& segments) const {
  bool starts[256] = {};
  for (uint32_t child = trie.nodes[0].child; child != 0; child = trie.nodes[child].sibling)
    starts[trie.nodes[child].byte] = true;

  uint32_t taken = begin;  // up to here everything is in a segment
  for (uint32_t p = begin; p < end;) {
    if (!starts[static_cast<uint8_t>(text[p])]) {
      ++p;
      continue;
    }
    const AddedToken* match = nullptr;
    uint32_t match_end = p, at = 0;
    for (uint32_t q = p; q < end;) {
      uint32_t child = trie.nodes[at].child;
      while (child != 0 && trie.nodes[child].byte != static_cast<uint8_t>(text[q]))
        child = trie.nodes[child].sibling;
      if (child == 0) break;
      at = child;
      ++q;
      if (trie.nodes[at].token < 0) continue;
      const AddedToken& token = tokens_[static_cast<size_t>(trie.nodes[at].token)];
      if (!with_control && token.is_control()) continue;
      match = &token;
      match_end = q;
    }
    if (match == nullptr) {
      ++p;
      continue;
    }
    uint32_t start = p, stop = match_end;
    p = match_end;
    const char* const text_begin = text.data() + begin;
    const char* const text_end = text.data() + end;
    if (match->single_word) {
      const char* after = text.data() + stop;
      const bool touches_front = text.data() + start > text_begin && [&] {
        const char* before = previous_character(text.data() + start);
        return CodePointSet::word().contains(next_code_point(before));
      }();
      if (touches_front || (after < text_end && CodePointSet::word().contains(next_code_point(after))))
        continue;
    }
    if (match->lstrip) {
      while (start > taken) {
        const char* before = previous_character(text.data() + start);
        const char* probe = before;
        if (!CodePointSet::strip_space().contains(next_code_point(probe))) break;
        start = static_cast<uint32_t>(before - text.data());
      }
      start = std::max(start, taken);
    }
    if (match->rstrip) {
      for (const char* after = text.data() + stop; after < text_end;) {
        if (!CodePointSet::strip_space().contains(next_code_point(after))) break;
        stop = static_cast<uint32_t>(after - text.data());
      }
    }
    if (taken < start) segments.push_back({taken, start, -1});
    segments.push_back({start, stop, match->id});
    taken = stop;
  }
  if (taken < end) segments.push_back({taken, end, -1});
}

void AddedTokens::split(std::string_view text, bool with_control, std::vector<Segment>& segments) const {
  segments.clear();
  if (text.empty()) return;
  segments.push_back({0, static_cast<uint32_t>(text.size()), -1});
  for (const Trie& trie : tries_) {
    if (trie.nodes.size() == 1 || (!with_control && !trie.has_text_token)) continue;
    std::vector<Segment> finer;
    for (const Segment& segment : segments) {
      if (segment.id >= 0)
        finer.push_back(segment);
      else
        split_by(trie, text, segment.begin, segment.end, with_control, finer);
    }
    segments = std::move(finer);
  }
}

}  // namespace fathom::tokenizer
