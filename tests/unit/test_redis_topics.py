from betcore_async.redis.topics import Topics


def test_a_topic_left_before_its_answer_came_is_forgotten_with_the_answer():
    topics, someone = Topics("SUBSCRIBE", "UNSUBSCRIBE"), object()
    assert not topics.join("a", someone)
    assert topics.commands() == [("SUBSCRIBE", "a")]
    topics.leave("a", someone)
    assert topics.commands() == [("UNSUBSCRIBE", "a")]
    assert len(topics) == 1
    assert topics.acknowledged("a") is None
    assert len(topics) == 0
    assert topics.acknowledged("a") is None


def test_a_topic_joined_again_is_live_only_with_the_last_answer():
    topics, someone = Topics("SUBSCRIBE", "UNSUBSCRIBE"), object()
    topics.join("a", someone)
    topics.commands()
    topics.leave("a", someone)
    topics.commands()
    assert not topics.join("a", someone)
    assert topics.commands() == [("SUBSCRIBE", "a")]
    assert topics.acknowledged("a") is None
    assert topics.acknowledged("a").name == "a"
    assert topics.join("a", object())
    assert topics.commands() == []


def test_a_topic_left_and_joined_between_two_commands_is_not_mentioned():
    topics, someone = Topics("SUBSCRIBE", "UNSUBSCRIBE"), object()
    topics.join("a", someone)
    topics.commands()
    topics.acknowledged("a")
    topics.leave("a", someone)
    assert topics.join("a", someone)
    assert topics.commands() == []
