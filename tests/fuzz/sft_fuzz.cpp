// Records of instruction data, as a file and each as a conversation of every form and template.
#include "chat/template.h"
#include "data/sft_formats.h"
#include "data/sft_records.h"
#include "fuzz/fuzz.h"

namespace {

using namespace fathom;

void render_all(const chat::Conversation& conversation) {
  for (const auto which :
       {chat::Template::v3, chat::Template::v3_0324, chat::Template::r1, chat::Template::v3_1})
    for (int flags = 0; flags < 16; ++flags) {
      const chat::RenderOptions options{(flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0,
                                        (flags & 8) != 0};
      const chat::Segments prompt = chat::render(which, conversation, options);
      FATHOM_CHECK(!prompt.empty() && prompt[0].is_control);
      for (size_t i = 1; i < prompt.size(); ++i)
        FATHOM_CHECK(!prompt[i].text.empty() && (prompt[i].is_control || prompt[i - 1].is_control));
      for (const chat::Message& message : conversation.messages)
        if (message.role == chat::Role::assistant)
          FATHOM_CHECK(chat::reply(which, message, prompt).back().is_control);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto path = fuzz::scratch_directory() / "f.json";
  fuzz::write_file(path, fuzz::as_text(data, size));
  fuzz::accepts([&] {
    data::SftRecordReader reader(path);
    for (data::SftRecord record; reader.next(record);)
      fuzz::accepts([&] {
        const Json json = parse_json(record.text, "f");
        for (const auto format :
             {data::SftFormat::alpaca, data::SftFormat::sharegpt, data::SftFormat::messages})
          fuzz::accepts([&] { render_all(data::read_sft_record(json, format, "", "f")); });
      });
  });
  return 0;
}
