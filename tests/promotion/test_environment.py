from tests.promotion.world import World
def test_a(world: World):
    r=world.pull(); assert r.code==0, r
    print(r.out)
    print(world.fetch())
    print(world.verify())
    assert 0
def test_b(world: World):
    world.another()
    print(world.run("history","--in","staging").out)
    assert 0
