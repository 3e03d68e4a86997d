/* What `vm demo` runs: draws a picture in text by following rays of light, then computes a few facts.
 *
 *     demo [plain] [columns]
 *
 * "plain", or NO_COLOR in the environment, draws with letters instead of colours. COLORTERM=truecolor gives 24-bit
 * colours, else the 256 that nearly every terminal has. No clock, no randomness from outside: the same text every time. */
#include "guest.h"
#include <math.h>
#include <sys/utsname.h>

typedef struct {
    double x, y, z;
} vector;

static vector add(vector a, vector b) { return (vector){a.x + b.x, a.y + b.y, a.z + b.z}; }
static vector subtract(vector a, vector b) { return (vector){a.x - b.x, a.y - b.y, a.z - b.z}; }
static vector scale(vector a, double k) { return (vector){a.x * k, a.y * k, a.z * k}; }
static vector tint(vector a, vector b) { return (vector){a.x * b.x, a.y * b.y, a.z * b.z}; }
static double dot(vector a, vector b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
static vector unit(vector a) { return scale(a, 1.0 / sqrt(dot(a, a))); }
static vector mix(vector a, vector b, double k) { return add(scale(a, 1.0 - k), scale(b, k)); }

struct sphere {
    vector centre, colour;
    double radius, mirror;
};

static const struct sphere spheres[] = {
    {{0.0, 1.0, 0.0}, {0.95, 0.95, 1.0}, 1.0, 0.85},
    {{-2.15, 0.72, 0.5}, {1.0, 0.25, 0.18}, 0.72, 0.25},
    {{2.1, 0.72, 0.45}, {0.16, 0.42, 1.0}, 0.72, 0.25},
    {{-0.95, 0.36, -1.35}, {1.0, 0.78, 0.1}, 0.36, 0.3},
    {{0.95, 0.36, -1.4}, {0.2, 0.85, 0.35}, 0.36, 0.3},
    {{0.05, 0.22, -1.9}, {0.85, 0.3, 0.9}, 0.22, 0.3},
};
#define SPHERES ((int)(sizeof spheres / sizeof *spheres))

static unsigned long long rays;

/* The nearest thing that a ray meets: a sphere's number, SPHERES for the floor, -1 for the sky. */
static int nearest(vector from, vector along, double *distance) {
    int found = -1;
    double best = 1e9;
    rays++;
    for (int i = 0; i < SPHERES; i++) {
        vector to = subtract(spheres[i].centre, from);
        double middle = dot(to, along);
        double square = spheres[i].radius * spheres[i].radius - (dot(to, to) - middle * middle);
        if (square <= 0.0)
            continue;
        double half = sqrt(square), t = middle - half;
        if (t < 1e-4)
            t = middle + half;
        if (t > 1e-4 && t < best)
            best = t, found = i;
    }
    if (along.y < -1e-6) {
        double t = -from.y / along.y;
        if (t > 1e-4 && t < best && t < 60.0)
            best = t, found = SPHERES;
    }
    *distance = best;
    return found;
}

static vector sky(vector along, vector sun) {
    double height = along.y < 0.0 ? 0.0 : along.y, glow = dot(along, sun);
    vector colour = mix((vector){0.98, 0.66, 0.42}, (vector){0.08, 0.16, 0.42}, sqrt(height > 1.0 ? 1.0 : height));
    if (glow > 0.0) {
        double g = glow * glow;
        g *= g, g *= g, g *= g;
        colour = add(colour, scale((vector){1.0, 0.8, 0.5}, 0.5 * g));
        if (glow > 0.9985)
            colour = (vector){1.4, 1.3, 1.1};
    }
    return colour;
}

static vector look(vector from, vector along, int depth) {
    const vector sun = unit((vector){-0.75, 0.85, -0.75});
    double distance, shadow;
    int what = nearest(from, along, &distance);
    if (what < 0)
        return sky(along, sun);
    vector at = add(from, scale(along, distance)), normal, colour;
    double mirror;
    if (what == SPHERES) {
        normal = (vector){0.0, 1.0, 0.0};
        int odd = ((long)floor(at.x * 0.9) + (long)floor(at.z * 0.9)) & 1;
        colour = odd ? (vector){0.78, 0.74, 0.68} : (vector){0.16, 0.17, 0.22};
        mirror = 0.12;
    } else {
        normal = scale(subtract(at, spheres[what].centre), 1.0 / spheres[what].radius);
        colour = spheres[what].colour;
        mirror = spheres[what].mirror;
    }
    double light = dot(normal, sun);
    if (light > 0.0 && nearest(at, sun, &shadow) >= 0)
        light = 0.0;
    if (light < 0.0)
        light = 0.0;
    vector lit = tint(colour, add((vector){0.16, 0.18, 0.24}, scale((vector){1.0, 0.93, 0.8}, 0.95 * light)));
    vector back = subtract(along, scale(normal, 2.0 * dot(along, normal)));
    double shine = dot(back, sun);
    if (what < SPHERES && light > 0.0 && shine > 0.0) {
        double s = shine * shine;
        s *= s, s *= s, s *= s, s *= s;
        lit = add(lit, scale((vector){1.0, 1.0, 0.95}, 0.8 * s));
    }
    if (depth > 0) {
        double facing = 1.0 - fabs(dot(along, normal));
        mirror += (1.0 - mirror) * facing * facing * facing * facing * facing * 0.5;
        lit = mix(lit, tint(look(at, back, depth - 1), what == SPHERES ? (vector){1, 1, 1} : mix((vector){1, 1, 1}, colour, 0.4)), mirror);
    }
    if (what == SPHERES) { /* far things fade into the horizon */
        double fade = distance / 30.0;
        lit = mix(lit, (vector){0.9, 0.62, 0.42}, fade > 1.0 ? 1.0 : fade * fade);
    }
    return lit;
}

#define WIDEST 200
static unsigned char picture[WIDEST][WIDEST][3];

static unsigned char level(double v) {
    v = sqrt(v < 0.0 ? 0.0 : v > 1.0 ? 1.0 : v);
    return (unsigned char)(v * 255.0 + 0.5);
}

static void draw(int columns, int rows) {
    const int side = 6; /* rays along each side of a pixel */
    const vector eye = {0.0, 1.5, -6.4}, forward = unit((vector){0.0, -0.13, 1.0});
    const vector right = {1.0, 0.0, 0.0};
    const vector up = {0.0, forward.z, -forward.y};
    for (int row = 0; row < rows; row++)
        for (int column = 0; column < columns; column++) {
            vector sum = {0, 0, 0};
            for (int k = 0; k < side * side; k++) {
                double x = (column + (k % side + 0.5) / side - columns * 0.5) / columns;
                double y = (rows * 0.5 - row - (k / side + 0.5) / side) / columns;
                sum = add(sum, look(eye, unit(add(forward, add(scale(right, x), scale(up, y)))), 4));
            }
            sum = scale(sum, 1.0 / (side * side));
            picture[row][column][0] = level(sum.x);
            picture[row][column][1] = level(sum.y);
            picture[row][column][2] = level(sum.z);
        }
}

/* The nearest of the 6x6x6 colours, after an ordered dither that hides the steps between them. */
static int of_256(const unsigned char *p, int row, int column) {
    static const int order[4][4] = {{0, 8, 2, 10}, {12, 4, 14, 6}, {3, 11, 1, 9}, {15, 7, 13, 5}};
    static const int steps[6] = {0, 95, 135, 175, 215, 255};
    int code = 16, weight = 36;
    for (int c = 0; c < 3; c++, weight /= 6) {
        int v = p[c], i = 0;
        while (i < 4 && steps[i + 1] <= v)
            i++;
        int between = (v - steps[i]) * 16 / (steps[i + 1] - steps[i]);
        if (between > order[row & 3][column & 3])
            i++;
        code += weight * i;
    }
    return code;
}

static void show_colours(int columns, int rows, int true_colour) {
    for (int row = 0; row + 1 < rows; row += 2) {
        for (int column = 0; column < columns; column++) {
            const unsigned char *a = picture[row][column], *b = picture[row + 1][column];
            if (true_colour)
                printf("\033[38;2;%d;%d;%d;48;2;%d;%d;%dm", a[0], a[1], a[2], b[0], b[1], b[2]);
            else
                printf("\033[38;5;%d;48;5;%dm", of_256(a, row, column), of_256(b, row + 1, column));
            fputs("\xe2\x96\x80", stdout); /* the upper half of a cell */
        }
        puts("\033[0m");
    }
}

/* Brightness of a character cell, which is two pixels high. */
static int brightness(int row, int column) {
    int sum = 0;
    for (int k = 0; k < 2; k++) {
        const unsigned char *p = picture[row + k][column];
        sum += 30 * p[0] + 59 * p[1] + 11 * p[2];
    }
    return sum;
}

static void show_letters(int columns, int rows) {
    static const char ramp[] = " .,:;-=+coxO#%@";
    int low = 51000, high = 0; /* the letters span what the picture spans */
    for (int row = 0; row + 1 < rows; row += 2)
        for (int column = 0; column < columns; column++) {
            int b = brightness(row, column);
            low = b < low ? b : low, high = b > high ? b : high;
        }
    for (int row = 0; row + 1 < rows; row += 2) {
        for (int column = 0; column < columns; column++)
            putchar(ramp[(brightness(row, column) - low) * (long)(sizeof ramp - 1) / (high - low + 1)]);
        putchar('\n');
    }
}

static uint32_t rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

/* SHA-256 (FIPS 180-4). The constants are found, not listed: the first 32 bits of the fractions of roots of primes, which a
 * double holds exactly enough (36 bits of 53). */
static void sha256(const unsigned char *data, size_t size, char text[65]) {
    uint32_t constants[64], state[8];
    int count = 0;
    for (int p = 2; count < 64; p++) {
        int prime = 1;
        for (int d = 2; d * d <= p; d++)
            prime &= p % d != 0;
        if (!prime)
            continue;
        double square = sqrt(p), cube = cbrt(p);
        if (count < 8)
            state[count] = (uint32_t)((square - floor(square)) * 4294967296.0);
        constants[count++] = (uint32_t)((cube - floor(cube)) * 4294967296.0);
    }
    size_t blocks = (size + 8) / 64 + 1;
    for (size_t n = 0; n < blocks; n++) {
        uint32_t w[64], s[8];
        for (size_t i = 0; i < 64; i++) {
            size_t at = n * 64 + i;
            uint32_t byte = at < size ? data[at] : at == size ? 0x80 : 0;
            if (n + 1 == blocks && i >= 56)
                byte = (uint32_t)((uint64_t)size * 8 >> (8 * (63 - i))) & 255;
            w[i / 4] = i % 4 ? w[i / 4] << 8 | byte : byte;
        }
        for (int i = 16; i < 64; i++)
            w[i] = w[i - 16] + w[i - 7] + (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10) +
                   (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3);
        memcpy(s, state, sizeof s);
        for (int i = 0; i < 64; i++) {
            uint32_t one = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) +
                           constants[i] + w[i];
            uint32_t two = (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
            memmove(s + 1, s, 7 * sizeof *s);
            s[4] += one;
            s[0] = one + two;
        }
        for (int i = 0; i < 8; i++)
            state[i] += s[i];
    }
    for (int i = 0; i < 8; i++)
        sprintf(text + 8 * i, "%08x", (unsigned)state[i]);
}

static unsigned long primes_below(unsigned long limit) {
    unsigned long half = limit / 2, count = 1;
    unsigned char *composite = calloc(half, 1);
    if (composite == NULL)
        return 0;
    for (unsigned long i = 1; i < half; i++) {
        if (composite[i])
            continue;
        count++;
        for (unsigned long j = 2 * i * (i + 1); j < half; j += 2 * i + 1)
            composite[j] = 1;
    }
    free(composite);
    return count;
}

static void longest_collatz(unsigned long limit, unsigned long *number, unsigned long *length) {
    *length = 0;
    for (unsigned long n = 1; n < limit; n++) {
        unsigned long steps = 0;
        for (unsigned long x = n; x != 1; steps++)
            x = x & 1 ? 3 * x + 1 : x / 2;
        if (steps > *length)
            *length = steps, *number = n;
    }
}

static void grouped(unsigned long long n, char *text) {
    char digits[24];
    int length = sprintf(digits, "%llu", n), out = 0;
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0)
            text[out++] = ',';
        text[out++] = digits[i];
    }
    text[out] = 0;
}

int main(int argc, char **argv) {
    const char *no_color = getenv("NO_COLOR"), *colours = getenv("COLORTERM");
    int plain = no_color != NULL && no_color[0] != 0, columns = 76;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "plain") == 0)
            plain = 1;
        else
            columns = atoi(argv[i]);
    }
    if (columns < 8 || columns > WIDEST) {
        fprintf(stderr, "usage: demo [plain] [columns, 8 to %d]\n", WIDEST);
        return 2;
    }
    int rows = columns * 5 / 9 / 2 * 2;
    draw(columns, rows);
    if (plain)
        show_letters(columns, rows);
    else
        show_colours(columns, rows, colours != NULL && (strcmp(colours, "truecolor") == 0 || strcmp(colours, "24bit") == 0));

    struct utsname machine;
    char number[32], text[65];
    const char *bold = plain ? "" : "\033[1m", *end = plain ? "" : "\033[0m";
    uname(&machine);
    grouped(rays, number);
    printf("%sA %s program drew this%s, following %s rays of light. It also found that\n", bold, machine.machine, end, number);
    grouped(primes_below(20000000), number);
    printf("  there are %s%s%s primes below twenty million,\n", bold, number, end);
    unsigned long start = 0, length = 0;
    longest_collatz(1000000, &start, &length);
    grouped(start, number);
    printf("  %s%s%s takes %lu steps to reach 1, the longest way below a million (halve, or triple and add one),\n", bold, number, end,
           length);
    sha256(&picture[0][0][0], sizeof picture, text);
    printf("  and the picture's SHA-256 is %s%.16s…%s\n", bold, text, end);
    return 0;
}
