#include "base/tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"

namespace fathom {
namespace {

using testing::HasSubstr;

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "no error";
}

std::string parse_error(const std::string& text) {
  return error_of([&] { parse_yaml(text, "r.yaml"); });
}

TEST(Tree, keeps_lines_and_key_paths) {
  const Tree root = parse_yaml("a: 1\nb:\n  c: [x, {d: 2}]\n", "r.yaml");
  const Tree& c = *root.find("b")->find("c");
  EXPECT_EQ(c.where(), "r.yaml:3: b.c");
  EXPECT_EQ(c.items[1].find("d")->where(), "r.yaml:3: b.c.1.d");
  EXPECT_EQ(root.find("b")->line, 2);
  EXPECT_EQ(root.find("z"), nullptr);
}

TEST(Tree, numbers_are_read_by_our_rules) {
  const auto value = [](const std::string& text) { return *parse_yaml("k: " + text, "r.yaml").find("k"); };
  EXPECT_EQ(value("12").as_integer(), 12);
  EXPECT_EQ(value("-3").as_integer(), -3);
  EXPECT_EQ(value("+3").as_integer(), 3);
  EXPECT_EQ(value("0").as_integer(), 0);
  EXPECT_EQ(value("1e3").as_integer(), 1000);
  EXPECT_EQ(value("14.8e12").as_integer(), 14'800'000'000'000);
  EXPECT_EQ(value("9223372036854775807").as_integer(), 9223372036854775807);
  EXPECT_EQ(value("1e3").as_number(), 1000);
  EXPECT_EQ(value("1.e-6").as_number(), 1e-6);
  EXPECT_EQ(value(".5").as_number(), 0.5);
  for (const char* text : {"1.5", "010", "0x10", "1_000", "\"12\"", "'12'", "1e19", "9223372036854775808",
                           "true", "1e-3", "nan", "", "~", "[1]", "{a: 1}", "12 13", "--1", "+-1", "1e400"})
    EXPECT_THAT(error_of([&] { value(text).as_integer(); }), HasSubstr("r.yaml:1: k: must be a whole number"))
        << text;
  for (const char* text : {"010", "nan", ".inf", "inf", "1e400", "\"1\"", "x", "", "1,5"})
    EXPECT_THAT(error_of([&] { value(text).as_number(); }), HasSubstr("must be a number")) << text;
  EXPECT_TRUE(value("true").as_boolean());
  EXPECT_TRUE(value("True").as_boolean());
  EXPECT_FALSE(value("FALSE").as_boolean());
  for (const char* text : {"yes", "on", "1", "\"true\"", "no"})
    EXPECT_THAT(error_of([&] { value(text).as_boolean(); }), HasSubstr("must be true or false")) << text;
}

TEST(Tree, duplicate_keys_and_merge_keys_are_refused_with_their_line) {
  EXPECT_THAT(parse_error("a: 1\nb: 2\na: 3\n"), HasSubstr("r.yaml:3: a: stands twice (first in line 1)"));
  EXPECT_THAT(parse_error("x: {a: 1, a: 2}"), HasSubstr("x.a: stands twice"));
  EXPECT_THAT(parse_error("base: &b {a: 1}\nc:\n  <<: *b\n"), HasSubstr("r.yaml:3: c.<<: merge keys"));
}

TEST(Tree, aliases_work_and_bombs_do_not) {
  const Tree root = parse_yaml("a: &x {v: 7}\nb: *x\n", "r.yaml");
  EXPECT_EQ(root.find("b")->find("v")->as_integer(), 7);
  std::string bomb = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n";
  for (int i = 1; i < 12; ++i) {
    const std::string below = "*a" + std::to_string(i - 1);
    bomb += fmt::format("a{0}: &a{0} [{1},{1},{1},{1},{1},{1},{1},{1},{1},{1}]\n", i, below);
  }
  EXPECT_THAT(parse_error(bomb), HasSubstr("grows beyond"));
  EXPECT_THAT(parse_error(std::string(150, '[') + std::string(150, ']')), HasSubstr("nests deeper"));
  EXPECT_THAT(parse_error(std::string(100000, '[')), HasSubstr("r.yaml"));
}

TEST(Tree, bad_yaml_names_its_line) {
  EXPECT_THAT(parse_error("a: 1\nb: [1, 2\n"), HasSubstr("r.yaml:"));
  EXPECT_THAT(parse_error("a: 1\n\tb: 2\n"), HasSubstr("r.yaml:"));
  EXPECT_THAT(parse_error("a: *nowhere\n"), HasSubstr("r.yaml:1"));
  EXPECT_THAT(parse_error("a: 1\n---\nb: 2\n"), HasSubstr("r.yaml:2: one YAML document is wanted"));
  // yaml-cpp alone loops for ever on the first two and reads the next three as something else.
  EXPECT_THAT(parse_error(",a: b\n"), HasSubstr("r.yaml:1"));
  EXPECT_THAT(parse_error(",x\n"), HasSubstr("r.yaml:1"));
  EXPECT_THAT(parse_error("a: 'x\nb: 2\n"), HasSubstr("EOF in scalar"));
  EXPECT_THAT(parse_error("a: 1\nb: 2 \x04\nc: 3\n"),
              HasSubstr("r.yaml:2: holds the control character 0x04"));
  EXPECT_THAT(parse_error("a: \xff\n"), HasSubstr("not UTF-8"));
  EXPECT_THAT(parse_error("? [1, 2]\n: 3\n"), HasSubstr("not plain text"));
  EXPECT_EQ(parse_yaml("", "r.yaml").kind, Tree::Kind::null);
  EXPECT_EQ(parse_yaml("# only a comment\n", "r.yaml").kind, Tree::Kind::null);
}

TEST(Tree, json_is_yaml_and_types_survive) {
  const Tree root = parse_yaml(R"({"a": [1, 1.5, "2", true, null, "true"], "b": {"c": 1e-06}})", "r.json");
  EXPECT_EQ(root.to_json().dump(), R"({"a":[1,1.5,"2",true,null,"true"],"b":{"c":1e-06}})");
}

TEST(Tree, overrides_reach_everywhere) {
  Tree root = parse_yaml("train: {steps: 5}\ndata:\n  train: [{path: a}]\n", "r.yaml");
  EXPECT_EQ(apply_override(root, "train.steps=20"), "train.steps");
  EXPECT_EQ(root.find("train")->find("steps")->as_integer(), 20);
  apply_override(root, "data.train.0.path=b");
  apply_override(root, "data.train.1={path: c, weight: 2}");
  apply_override(root, "new.section.key=[1, 2]");
  apply_override(root, "eq=a=b");
  EXPECT_EQ(root.to_json().dump(),
            R"({"train":{"steps":20},"data":{"train":[{"path":"b"},{"path":"c","weight":2}]},)"
            R"("new":{"section":{"key":[1,2]}},"eq":"a=b"})");
  EXPECT_EQ(root.find("train")->find("steps")->where(), "--set train.steps=20: train.steps");
  const auto error = [&](const std::string& text) { return error_of([&] { apply_override(root, text); }); };
  EXPECT_THAT(error("train.steps"), HasSubstr("write key.path=value"));
  EXPECT_THAT(error("=3"), HasSubstr("write key.path=value"));
  EXPECT_THAT(error("train..steps=3"), HasSubstr("empty part"));
  EXPECT_THAT(error("train.steps.x=3"), HasSubstr("has no key \"x\""));
  EXPECT_THAT(error("data.train.7.path=b"), HasSubstr("no index into it (0 .. 2)"));
  EXPECT_THAT(error("data.train.x=b"), HasSubstr("no index"));
  EXPECT_THAT(error("a=[1"), HasSubstr("--set a=[1"));
}

}  // namespace
}  // namespace fathom
