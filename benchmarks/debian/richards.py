"""Objects, methods, lists and dictionaries: a small simulation of queues and workers, over and over."""

import sys


class Packet:
    __slots__ = ("kind", "link", "size")

    def __init__(self, kind, size, link=None):
        self.kind, self.size, self.link = kind, size, link


class Worker:
    def __init__(self, name, pool):
        self.name, self.pool, self.queue, self.done = name, pool, [], 0

    def put(self, packet):
        self.queue.append(packet)

    def step(self, turn):
        if not self.queue:
            return False
        packet = self.queue.pop(0)
        self.done += packet.size
        packet.kind = (packet.kind * 5 + turn) % 7
        self.pool[(packet.kind + turn) % len(self.pool)].put(packet)
        return True


def run(rounds):
    pool = []
    for number in range(6):
        pool.append(Worker(f"worker {number}", pool))
    for number in range(30):
        pool[number % 6].put(Packet(number % 7, number))
    for turn in range(rounds):
        for worker in pool:
            worker.step(turn)
    return {worker.name: worker.done for worker in pool}


print(run(int(sys.argv[1])))
