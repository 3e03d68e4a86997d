/* A star and seven planets under gravity, leapfrog steps. Size: steps. Double multiply, divide and square root. */
#include "guest.h"
#include <math.h>

#define BODIES 8

struct body {
    double position[3], velocity[3], mass;
};

static struct body bodies[BODIES];

static void make_system(void) {
    bodies[0].mass = 1000.0;
    double distance = 1.0;
    for (int i = 1; i < BODIES; i++) {
        double speed = sqrt(bodies[0].mass / distance); /* a circular orbit */
        struct body *b = &bodies[i];
        b->mass = 1.0 / i;
        b->position[i % 2] = i % 3 == 0 ? -distance : distance;
        b->position[2] = 0.01 * i;
        b->velocity[1 - i % 2] = i % 3 == 0 ? -speed : speed;
        distance *= 1.7;
    }
}

static double energy(void) {
    double sum = 0.0;
    for (int i = 0; i < BODIES; i++) {
        const struct body *a = &bodies[i];
        sum += 0.5 * a->mass *
               (a->velocity[0] * a->velocity[0] + a->velocity[1] * a->velocity[1] + a->velocity[2] * a->velocity[2]);
        for (int j = i + 1; j < BODIES; j++) {
            const struct body *b = &bodies[j];
            double dx = a->position[0] - b->position[0];
            double dy = a->position[1] - b->position[1];
            double dz = a->position[2] - b->position[2];
            sum -= a->mass * b->mass / sqrt(dx * dx + dy * dy + dz * dz);
        }
    }
    return sum;
}

static NOINLINE void step(double dt) {
    for (int i = 0; i < BODIES; i++) {
        struct body *a = &bodies[i];
        for (int j = i + 1; j < BODIES; j++) {
            struct body *b = &bodies[j];
            double dx = a->position[0] - b->position[0];
            double dy = a->position[1] - b->position[1];
            double dz = a->position[2] - b->position[2];
            double square = dx * dx + dy * dy + dz * dz;
            double pull = dt / (square * sqrt(square));
            a->velocity[0] -= dx * b->mass * pull;
            a->velocity[1] -= dy * b->mass * pull;
            a->velocity[2] -= dz * b->mass * pull;
            b->velocity[0] += dx * a->mass * pull;
            b->velocity[1] += dy * a->mass * pull;
            b->velocity[2] += dz * a->mass * pull;
        }
    }
    for (int i = 0; i < BODIES; i++)
        for (int k = 0; k < 3; k++)
            bodies[i].position[k] += dt * bodies[i].velocity[k];
}

int main(int argc, char **argv) {
    unsigned long steps = guest_size(argc, argv, 5000);
    make_system();
    double before = energy();
    for (unsigned long i = 0; i < steps; i++)
        step(0.0001);
    double after = energy();
    printf("energy %.9f\n", before);
    printf("energy %.9f after %lu steps\n", after, steps);
    printf("kept %s\n", fabs(after - before) < 0.01 * fabs(before) ? "yes" : "NO");
    uint64_t hash = guest_hash(GUEST_HASH, bodies, sizeof bodies);
    printf("state %016llx\n", (unsigned long long)hash);
    return 0;
}
