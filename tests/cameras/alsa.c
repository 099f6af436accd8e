/* A sound card in user space: an ALSA plugin that captures a saw-tooth in real time.
 * pcm.NAME { type peercam  rate 48000  channels 1  format S16_LE  period 0  late 0  fast 0  fault good } with
 * rate, channels                the only one, or in a list {1 2} the least and the most
 * period                        bytes of the only period that it has; 0: any
 * late                          seconds before the first sample
 * fast                          by how many millionths its clock is fast (it takes S16_LE and hears a beep then, in the first
 *                               tenth of each second of the wall clock)
 * fault
 *   good, xrun (an overrun each second), asleep (suspended after half a second, once), breaks (EIO after half a second,
 *   once), params (it refuses any settings), stalls (no sample for some seconds after half a second, once),
 *   mute (it never has a sample), gone (unplugged after half a second), busy, absent,
 *   opening, closing (it hangs for some seconds when it is opened or closed)
 *
 * Put before a program by LD_PRELOAD, it answers for the cards of the system too, where $PEERCAM_CARDS names a file: each
 * line of it is a card, `ID|NAME|LONG NAME`, with one device that captures, or with none where the line ends with `|-`. */
#define _GNU_SOURCE
#include <alsa/asoundlib.h>
#include <alsa/pcm_external.h>
#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { HANGS = 4 };

struct card {
    snd_pcm_ioplug_t io;
    char fault[16];
    struct timespec start;
    int runs, told;
    long late, at, fast, taken;
    uint8_t next;
};

static int unplugged, once;

static double since(const struct card *c) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec - c->start.tv_sec + (now.tv_nsec - c->start.tv_nsec) / 1e9;
}

static int run(snd_pcm_ioplug_t *io, int runs) {
    struct card *c = io->private_data;
    struct itimerspec every = {{0, runs ? 5000000 : 0}, {0, runs ? 5000000 : 0}};
    clock_gettime(CLOCK_MONOTONIC, &c->start);
    c->runs = runs, c->taken = 0;
    return timerfd_settime(io->poll_fd, 0, &every, NULL);
}
static int prepare(snd_pcm_ioplug_t *io) { return unplugged ? -ENODEV : run(io, 0); }
static int start(snd_pcm_ioplug_t *io) { return run(io, 1); }
static int stop(snd_pcm_ioplug_t *io) {
    if (once == 2) once = 1;
    return run(io, 0);
}
static int params(snd_pcm_ioplug_t *io, snd_pcm_hw_params_t *wanted) {
    (void)wanted;
    return strcmp(((struct card *)io->private_data)->fault, "params") ? 0 : -EINVAL;
}
static int resume(snd_pcm_ioplug_t *io) { return (void)io, -ENOSYS; }

static snd_pcm_sframes_t pointer(snd_pcm_ioplug_t *io) {
    struct card *c = io->private_data;
    if (!c->runs || !strcmp(c->fault, "mute")) return 0;
    if (!strcmp(c->fault, "gone") && since(c) > 0.5) {
        unplugged = 1;
        return -ENODEV;
    }
    if (!strcmp(c->fault, "xrun") && (int)since(c) > c->told) return c->told = since(c), -EPIPE;
    if (!once && since(c) > 0.5) {
        once = 1;
        if (!strcmp(c->fault, "asleep")) return -ESTRPIPE;
        if (!strcmp(c->fault, "breaks")) return -EIO;
        once = !strcmp(c->fault, "stalls") ? 2 : 1;
    }
    if (once == 2 && since(c) < HANGS) return c->at;
    if (since(c) < c->late) return 0;
    int64_t at = (since(c) - c->late) * io->rate * (1 + c->fast / 1e6);
    return at > (int64_t)(io->appl_ptr + io->buffer_size) ? -EPIPE : (c->at = at % (int64_t)io->buffer_size);
}

/* What is heard at the wall clock's time of each sample: 1 kHz at a quarter of full scale, or silence. */
static snd_pcm_sframes_t beep(snd_pcm_ioplug_t *io, const snd_pcm_channel_area_t *areas, snd_pcm_uframes_t offset,
                              snd_pcm_uframes_t frames) {
    struct card *c = io->private_data;
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    double began = wall.tv_sec % 3600 + wall.tv_nsec / 1e9 - since(c);
    for (snd_pcm_uframes_t i = 0; i < frames; i++, c->taken++) {
        double into = fmod(began + c->taken / (io->rate * (1 + c->fast / 1e6)), 1);
        int16_t heard = into < 0.1 ? 8192 * sin(into * 1000 * 2 * M_PI) : 0;
        for (unsigned channel = 0; channel < io->channels; channel++) {
            const snd_pcm_channel_area_t *area = &areas[channel];
            memcpy((uint8_t *)area->addr + (area->first + area->step * (offset + i)) / 8, &heard, sizeof heard);
        }
    }
    return frames;
}

/* One sample, from -1 to 1, as the card's format has it; of a format that is not here, bytes that are loud. */
static void put(uint8_t *into, snd_pcm_ioplug_t *io, double value) {
    struct card *c = io->private_data;
    int32_t whole = value * 0x7fffffff;
    float fraction = value;
    switch (io->format) {
    case SND_PCM_FORMAT_U8: *into = 128 + whole / (1 << 24); return;
    case SND_PCM_FORMAT_S16_LE: whole >>= 16; memcpy(into, &whole, 2); return;
    case SND_PCM_FORMAT_S20_3LE: whole >>= 12; memcpy(into, &whole, 3); return;
    case SND_PCM_FORMAT_S24_3LE: whole >>= 8; memcpy(into, &whole, 3); return;
    case SND_PCM_FORMAT_S32_LE: memcpy(into, &whole, 4); return;
    case SND_PCM_FORMAT_FLOAT_LE: memcpy(into, &fraction, 4); return;
    default: *into = c->next += 16;
    }
}

static snd_pcm_sframes_t transfer(snd_pcm_ioplug_t *io, const snd_pcm_channel_area_t *areas, snd_pcm_uframes_t offset,
                                  snd_pcm_uframes_t frames) {
    struct card *c = io->private_data;
    if (c->fast) return beep(io, areas, offset, frames);
    for (snd_pcm_uframes_t i = 0; i < frames; i++, c->taken++) {
        double value = sin(c->taken * 1000.0 / io->rate * 2 * M_PI) / 2;
        for (unsigned channel = 0; channel < io->channels; channel++) {
            const snd_pcm_channel_area_t *area = &areas[channel];
            put((uint8_t *)area->addr + (area->first + area->step * (offset + i)) / 8, io, value);
        }
    }
    return frames;
}

static int revents(snd_pcm_ioplug_t *io, struct pollfd *fds, unsigned count, unsigned short *found) {
    uint64_t times;
    (void)io, (void)count;
    *found = fds->revents & POLLIN && read(fds->fd, &times, 8) == 8 ? POLLIN : 0;
    return 0;
}

static int close_card(snd_pcm_ioplug_t *io) {
    struct card *c = io->private_data;
    /* Not where it was only asked what it can do. */
    if (!strcmp(c->fault, "closing") && c->start.tv_sec) sleep(HANGS);
    close(io->poll_fd);
    free(io->private_data);
    return 0;
}

static const snd_pcm_ioplug_callback_t calls = {
    .prepare = prepare, .start = start, .stop = stop, .pointer = pointer, .transfer = transfer, .poll_revents = revents, .close = close_card,
    .hw_params = params, .resume = resume,
};

/* One number or a list of two. */
static void limits(snd_config_t *entry, long found[2]) {
    snd_config_iterator_t i, next;
    int place = 0;
    if (snd_config_get_type(entry) != SND_CONFIG_TYPE_COMPOUND) {
        if (!snd_config_get_integer(entry, &found[0])) found[1] = found[0];
        return;
    }
    snd_config_for_each(i, next, entry) if (place < 2) snd_config_get_integer(snd_config_iterator_entry(i), &found[place++]);
}

SND_PCM_PLUGIN_DEFINE_FUNC(peercam) {
    snd_config_iterator_t i, next;
    const char *fault = "good", *format = "S16_LE", *id;
    long rate[2] = {48000, 48000}, channels[2] = {1, 1}, period = 0, late = 0, fast = 0;
    (void)root;
    snd_config_for_each(i, next, conf) {
        snd_config_t *entry = snd_config_iterator_entry(i);
        if (snd_config_get_id(entry, &id) < 0) continue;
        if (!strcmp(id, "fault")) snd_config_get_string(entry, &fault);
        if (!strcmp(id, "format")) snd_config_get_string(entry, &format);
        if (!strcmp(id, "rate")) limits(entry, rate);
        if (!strcmp(id, "channels")) limits(entry, channels);
        if (!strcmp(id, "period")) snd_config_get_integer(entry, &period);
        if (!strcmp(id, "late")) snd_config_get_integer(entry, &late);
        if (!strcmp(id, "fast")) snd_config_get_integer(entry, &fast);
    }
    if (!strcmp(fault, "busy")) return -EBUSY;
    if (!strcmp(fault, "absent") || unplugged) return -ENODEV;
    if (!strcmp(fault, "opening")) sleep(HANGS);
    struct card *c = calloc(1, sizeof *c);
    if (!c) return -ENOMEM;
    c->late = late, c->fast = fast;
    snprintf(c->fault, sizeof c->fault, "%s", fault);
    c->io.version = SND_PCM_IOPLUG_VERSION, c->io.name = "peercam", c->io.callback = &calls, c->io.private_data = c;
    c->io.poll_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC), c->io.poll_events = POLLIN;
    int error = snd_pcm_ioplug_create(&c->io, name, stream, mode);
    if (error < 0) return error;
    unsigned access[] = {SND_PCM_ACCESS_RW_INTERLEAVED, SND_PCM_ACCESS_MMAP_INTERLEAVED}, formats[] = {snd_pcm_format_value(format)};
    snd_pcm_ioplug_set_param_list(&c->io, SND_PCM_IOPLUG_HW_ACCESS, 2, access);
    snd_pcm_ioplug_set_param_list(&c->io, SND_PCM_IOPLUG_HW_FORMAT, 1, formats);
    snd_pcm_ioplug_set_param_minmax(&c->io, SND_PCM_IOPLUG_HW_RATE, rate[0], rate[1]);
    snd_pcm_ioplug_set_param_minmax(&c->io, SND_PCM_IOPLUG_HW_CHANNELS, channels[0], channels[1]);
    snd_pcm_ioplug_set_param_minmax(&c->io, SND_PCM_IOPLUG_HW_PERIOD_BYTES, period ? period : 1001, period ? period : 64 * 1024);
    snd_pcm_ioplug_set_param_minmax(&c->io, SND_PCM_IOPLUG_HW_BUFFER_BYTES, 2002, 1024 * 1024);
    snd_pcm_ioplug_set_param_minmax(&c->io, SND_PCM_IOPLUG_HW_PERIODS, 2, 64);
    *pcmp = c->io.pcm;
    return 0;
}
SND_PCM_PLUGIN_SYMBOL(peercam);

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

struct listed { char id[16], name[32], longname[80]; int is_mute; };
static struct listed cards[32];

/* How many cards there are; below 0 where the system is to be asked. */
static int listed_cards(void) {
    const char *place = getenv("PEERCAM_CARDS");
    char line[256];
    int count = 0;
    FILE *file = place ? fopen(place, "r") : NULL;
    if (!file) return -1;
    while (count < 32 && fgets(line, sizeof line, file)) {
        struct listed *card = &cards[count++];
        char *rest = line, *field;
        line[strcspn(line, "\n")] = 0;
        memset(card, 0, sizeof *card);
        if ((field = strsep(&rest, "|"))) strncpy(card->id, field, sizeof card->id - 1);
        if ((field = strsep(&rest, "|"))) strncpy(card->name, field, sizeof card->name - 1);
        if ((field = strsep(&rest, "|"))) strncpy(card->longname, field, sizeof card->longname - 1);
        card->is_mute = rest && *rest == '-';
    }
    fclose(file);
    return count;
}
static struct listed *ours(snd_ctl_t *control) {
    struct listed *card = (struct listed *)control;
    return card >= cards && card < cards + 32 ? card : NULL;
}
int snd_card_next(int *card) {
    int count = listed_cards();
    if (count < 0) return REAL(snd_card_next)(card);
    *card = *card + 1 < count ? *card + 1 : -1;
    return 0;
}
int snd_ctl_open(snd_ctl_t **control, const char *name, int mode) {
    int count = listed_cards(), number = atoi(name + 3);
    if (count < 0) return REAL(snd_ctl_open)(control, name, mode);
    if (number >= count) return -ENODEV;
    *control = (snd_ctl_t *)&cards[number];
    return 0;
}
int snd_ctl_close(snd_ctl_t *control) { return ours(control) ? 0 : REAL(snd_ctl_close)(control); }
int snd_ctl_card_info(snd_ctl_t *control, snd_ctl_card_info_t *into) {
    /* The kernel's: struct snd_ctl_card_info of sound/asound.h. */
    struct { int card, pad; char id[16], driver[16], name[32], longname[80]; } *info = (void *)into;
    const struct listed *card = ours(control);
    if (!card) return REAL(snd_ctl_card_info)(control, into);
    info->card = card - cards;
    memcpy(info->id, card->id, 16), memcpy(info->name, card->name, 32), memcpy(info->longname, card->longname, 80);
    return 0;
}
int snd_ctl_pcm_next_device(snd_ctl_t *control, int *device) {
    if (!ours(control)) return REAL(snd_ctl_pcm_next_device)(control, device);
    *device = *device < 0 ? 0 : -1;
    return 0;
}
int snd_ctl_pcm_info(snd_ctl_t *control, snd_pcm_info_t *info) {
    const struct listed *card = ours(control);
    return !card ? REAL(snd_ctl_pcm_info)(control, info) : card->is_mute ? -ENOENT : 0;
}
