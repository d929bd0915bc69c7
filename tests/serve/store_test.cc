// SPDX-License-Identifier: Apache-2.0
// States in a folder: they outlive the server, servers share them, and no writer that was killed leaves half of one.
#include "carousel/serve/store.h"
#include "tests/comes_true.h"

#include <filesystem>
#include <fstream>

#include "tests/serve/stored_service.h"

namespace carousel::serve {
namespace {

namespace fs = std::filesystem;

class Stored : public StoredService {
 protected:
  void place(StoreOptions& store) const override { store.folder = folder_; }
  std::vector<std::string> files() const {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(folder_)) out.push_back(entry.path().filename());
    std::sort(out.begin(), out.end());
    return out;
  }
  std::string file(const std::string& name) const { return folder_ + "/" + name; }

  const Scratch outside_;
  const std::string folder_ = outside_ / "made/store";
};

TEST_F(Stored, AStateOutlivesTheServer) {
  begin();
  const std::string id = keep("a");
  const Json said = go_on(*this, id);
  const Json card = Json::parse(ask("GET", "/v1/states/" + id).body);
  EXPECT_EQ(files(), (std::vector<std::string>{id + ".json", id + ".safetensors"}));
  stop();
  begin();
  EXPECT_EQ(Json::parse(ask("GET", "/v1/states/" + id).body), card);
  EXPECT_EQ(Json::parse(ask("GET", "/v1/states").body)["data"], Json::array({card}));
  EXPECT_EQ(go_on(*this, id), said);
  EXPECT_EQ(ask("GET", "/v1/states/" + id + "/file").status, 200);
  EXPECT_EQ(Json::parse(ask("GET", "/v1/states").body)["data"].size(), 1u);
  EXPECT_EQ(ask("DELETE", "/v1/states/" + id).status, 200);
  EXPECT_TRUE(files().empty());
  go_on(*this, id, 404);
  // The folder is the user's alone.
  EXPECT_EQ(fs::status(folder_).permissions(), fs::perms::owner_all);
}

TEST_F(Stored, WhatIsKeptIsStoredSoonWithoutWaiting) {
  begin();
  const std::string id =
      post("/v1/completions", {{"prompt", "a"}, {"max_tokens", 2}, {"keep_state", true}})["choices"][0]["state"];
  EXPECT_TRUE(comes_true([&] { return Json::parse(ask("GET", "/v1/states/" + id).body)["stored"].get<bool>(); }));
  EXPECT_TRUE(fs::exists(file(id + ".json")));
}

TEST_F(Stored, AStreamTellsItsEndOnceTheStateIsStored) {
  begin();
  const Json body = {{"prompt", "abc"}, {"max_tokens", 4}, {"n", 3}, {"stream", true}, {"keep_state", "stored"}};
  const Answer answer = ask("POST", "/v1/completions", body.dump());
  int ends = 0;
  for (const Json& chunk : events(answer)) {
    for (const Json& choice : chunk["choices"]) {
      if (!choice.contains("state")) continue;
      ends++;
      EXPECT_TRUE(fs::exists(file(choice["state"].get<std::string>() + ".json")));
    }
  }
  EXPECT_EQ(ends, 3);
  EXPECT_TRUE(answer.body.ends_with("data: [DONE]\n\n"));
}

TEST_F(Stored, ServersOfOneFolderGoOnFromEachOthersIds) { go_on_from_each_others_ids(); }

TEST_F(Stored, MemoryHoldsWhatWasUsedLast) {
  size_t bytes = 0;
  {
    RunningService other;
    other.start();
    bytes = other.post("/v1/states", {{"prompt", std::string(81, 'x')}})["bytes"];
  }
  begin([&](ServiceOptions& options) {
    options.state_bytes = bytes * 5 / 2;
    options.engine.cache_bytes = 0;
  });
  std::vector<std::string> ids;
  Json said = Json::array();
  for (const char* const prompt : {"a", "b", "c", "d"}) {
    ids.push_back(keep(prompt));
    said.push_back(go_on(*this, ids.back()));
  }
  for (int round = 0; round < 2; ++round) {
    for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(go_on(*this, ids[i]), said[i]);
  }
  EXPECT_EQ(Json::parse(ask("GET", "/v1/states").body)["data"].size(), 4u);

  // Rewound, a state finds its ancestor in the store too.
  const Json child = {{"state", ids[0]}, {"prompt", std::string(100, 'z')}, {"keep_state", "stored"}};
  const std::string grown = post("/v1/states", child)["id"];
  for (const std::string& id : ids) go_on(*this, id);
  const Json back = post("/v1/states", {{"state", grown}, {"to", 90}});
  EXPECT_EQ(back["tokens"], 90);
  EXPECT_EQ(back["parent"], ids[0]);
  EXPECT_EQ(back["usage"]["prompt_tokens_details"]["cached_tokens"], 81);

  // A rewind waits until it is stored too, and what is stored makes room at once.
  const Json waited = post("/v1/states", {{"state", grown}, {"to", 100}, {"keep_state", "stored"}});
  EXPECT_EQ(waited["stored"], true);
  EXPECT_TRUE(fs::exists(file(waited["id"].get<std::string>() + ".json")));
  EXPECT_EQ(post("/v1/states", {{"state", grown}, {"to", 90}, {"keep_state", "soon"}}, 400)["error"]["param"],
            "keep_state");
}

TEST_F(Stored, AFolderThatCannotBeReadIsNoAbsence) {
  begin();
  const std::string id = keep("a");
  fs::rename(folder_, folder_ + ".away");
  fs::create_symlink(folder_, folder_);  // to itself: what is asked of it is an error
  EXPECT_EQ(go_on(*this, id, 503)["code"], "store_unavailable");
  fs::remove(folder_);
  fs::rename(folder_ + ".away", folder_);
  go_on(*this, id);
}

TEST_F(Stored, AFullStoreRefuses) {
  begin([](ServiceOptions& options) { options.store.most_bytes = 100000; });
  Json last;
  int kept = 0;
  for (; kept < 20; ++kept) {
    const Json body = {{"prompt", "abc"}, {"keep_state", "stored"}};
    const Answer answer = ask("POST", "/v1/states", body.dump());
    last = Json::parse(answer.body);
    if (answer.status == 200) continue;
    EXPECT_EQ(answer.status, 507);
    EXPECT_NE(answer.head.find("x-should-retry: false"), answer.head.npos);
    break;
  }
  EXPECT_GT(kept, 0);
  ASSERT_LT(kept, 20);
  EXPECT_EQ(last["error"]["code"], "store_full");
  size_t bytes = 0;
  for (const std::string& name : files()) bytes += fs::file_size(file(name));
  EXPECT_LE(bytes, 100000u);
  // Room is made by removing one.
  const std::string id = Json::parse(ask("GET", "/v1/states").body)["data"][0]["id"];
  ask("DELETE", "/v1/states/" + id);
  post("/v1/states", {{"prompt", "abc"}, {"keep_state", "stored"}});
}

TEST_F(Stored, StatesExpire) {
  begin([](ServiceOptions& options) { options.store.ttl = 1; });
  const Json card = Json::parse(try_keep("a").body);  // asked for again, it may be gone on a slow machine
  const std::string id = card["id"];
  EXPECT_GT(card["expires_at"].get<int64_t>(), 0);
  EXPECT_TRUE(comes_true([&] { return ask("GET", "/v1/states/" + id).status != 200; }));
  go_on(*this, id, 404);
  EXPECT_EQ(Json::parse(ask("GET", "/v1/states").body)["data"].size(), 0u);
  stop();
  begin();  // a server that starts removes what has expired
  EXPECT_TRUE(files().empty());
}

TEST_F(Stored, DamagedAndForeignFilesAreRefused) {
  begin();
  const std::string cut = keep("a"), altered = keep("b"), half = keep("c"), good = keep("d");
  const Json said = go_on(*this, good);
  stop();
  fs::resize_file(file(cut + ".safetensors"), 1000);
  std::fstream(file(altered + ".safetensors"), std::ios::in | std::ios::out).seekp(-3, std::ios::end) << '\x55';
  std::ofstream(file(half + ".json")) << "{\"model\": \"small\"";
  const std::string dead = "state-0123456789abcdef0123456789abcdef";
  std::ofstream(file(dead + ".safetensors")) << "of a writer that was killed";
  std::ofstream(file("." + dead + ".json.partial")) << "its draft";
  std::ofstream(file("." + dead + ".safetensors.partial")) << "its other one";
  const std::vector<std::string> others = {"notes.txt", "model.safetensors", "model-00001-of-00002.safetensors",
                                           ".carousel.partial", ".model.safetensors.partial"};
  for (const std::string& name : others) std::ofstream(file(name)) << "somebody's own";
  begin();
  EXPECT_EQ(go_on(*this, cut, 422)["code"], "state_refused");
  EXPECT_EQ(go_on(*this, altered, 422)["code"], "state_refused");
  go_on(*this, half, 404);
  EXPECT_EQ(go_on(*this, good), said);
  for (const std::string& name : files()) EXPECT_EQ(name.find(dead), name.npos) << name;
  for (const std::string& name : others) EXPECT_TRUE(fs::exists(file(name))) << name;
  for (const std::string& id : {std::string("../store/"), std::string(".."), dead, "." + dead + ".json.partial",
                                std::string("notes"), std::string("model")}) {
    go_on(*this, id, 404);
  }
}

TEST_F(Stored, ResponsesAreStoredWithTheirAnswers) {
  begin();
  const Json first =
      post("/v1/responses", {{"input", "hello"}, {"max_output_tokens", 6}, {"seed", 3}, {"keep_state", "stored"}});
  const std::string id = first["id"];
  EXPECT_TRUE(fs::exists(file(id + ".json")));
  const Json next = {{"previous_response_id", id}, {"input", "more"}, {"max_output_tokens", 4}, {"seed", 3}};
  const Json second = post("/v1/responses", next)["output"][0]["content"];
  stop();  // waits for what is being stored
  begin();
  EXPECT_EQ(Json::parse(ask("GET", "/v1/responses/" + id).body), first);
  EXPECT_EQ(post("/v1/responses", next)["output"][0]["content"], second);
}

TEST_F(Stored, StatesBelongToTheKeyWhateverItsPlace) {
  begin([](ServiceOptions& options) { options.keys = {"one", "two"}; });
  const Answer kept = ask("POST", "/v1/states", R"({"prompt": "a", "keep_state": "stored"})", "x-api-key: two\r\n");
  const std::string path = "/v1/states/" + Json::parse(kept.body)["id"].get<std::string>();
  stop();
  begin([](ServiceOptions& options) { options.keys = {"two", "three"}; });
  EXPECT_EQ(ask("GET", path, "", "x-api-key: two\r\n").status, 200);
  EXPECT_EQ(ask("GET", path, "", "x-api-key: three\r\n").status, 404);
  EXPECT_EQ(ask("DELETE", path, "", "x-api-key: three\r\n").status, 404);
  EXPECT_EQ(Json::parse(ask("GET", "/v1/states", "", "x-api-key: three\r\n").body)["data"].size(), 0u);
}

TEST_F(Stored, WithoutAStoreNothingWaitsForOne) {
  start();
  const Json error = post("/v1/states", {{"prompt", "a"}, {"keep_state", "stored"}}, 400)["error"];
  EXPECT_EQ(error["param"], "keep_state");
  EXPECT_EQ(post("/v1/states", {{"prompt", "a"}})["stored"], false);
}

}  // namespace
}  // namespace carousel::serve
