"""What Online Retail's stock descriptions say: a title that people like to read, and a category.

The publisher gives no category. The rule: RULES are tried from top to bottom, and the first whose words occur in
the description names the path. A word counts as a whole word, also in the plural; a phrase may have any blank or
hyphen between its words. Occasions come first (a Christmas mug is looked for at Christmas), then phrases that mean
something else than their last word (a hot water bottle is no bottle), then kinds of thing from the specific to the
general; materials, colours and motifs name nothing (glass does where nothing else fits). Where no rule fits, the
category is "Other > <head noun>": the last word that is neither a number nor a size, a colour or a filler.
"""

import re
from functools import lru_cache

# path | words and phrases
_RULES = """
Seasonal > Christmas | christmas, xmas, bauble, reindeer, snowman, santa, advent, nativity, snowflake, mistletoe,
    sleigh, tinsel, stocking
Seasonal > Easter | easter
Seasonal > Halloween | halloween, pumpkin, witch
Home Comforts > Pets | collar, dog lead, dog bowl, cat bowl, dog hoodie
Toys & Games > Games & Puzzles | playing card, snap card, card game, top trumps
Stationery & Crafts > Cards | card, postcard, invite, invitation
Home Decor > Picture Frames | photo frame, picture frame, frame, photo clip, photo cube, photo holder, photoframe,
    photo
Stationery & Crafts > Albums & Scrapbooks | album, scrapbook, photo corner
Home Comforts > Hot Water Bottles | hot water bottle, hottie, hand warmer, handwarmer, heat pack, wheat bag
Kitchen & Dining > Tea & Coffee | tea cosy, teapot, tea pot, tea strainer, teaspoon, tea for one, coffee grinder,
    cafetiere, sugar caddy, tea caddy, tea set, coffee set, teaset
Kitchen & Dining > Cake Stands & Baking | cake stand, cakestand, cake case, cake tin, cake mould, cake plate,
    cake lifter, cookie cutter, pastry, rolling pin, baking, muffin, measuring, measure spoon, jelly mould, recipe,
    cupcake case, bundt, pudding bowl, mixing bowl, cake frill, patty, whisk, oven glove
Kitchen & Dining > Food Storage | cake storage, bread bin, biscuit bin, biscuit tin, storage jar, cookie jar,
    jam jar, storage tin, spice, canister, cannister, caddy, lunch box, lunchbox, snack box, sandwich box,
    food cover, food container, bottle stopper, preserving jar, storage canister, biscuit, tin tea,
    tea coffee sugar
Home Decor > Home Fragrance | incense, pot pourri, potpourri, oil burner, fragrance, scented flower, sachet,
    perfume, scent bottle, room spray, scented bag
Home Decor > Candle Holders | t light holder, tlight holder, candle holder, candleholder, candlestick, candle stick,
    tealight holder, votive, lantern, hurricane lamp, candelabra, candle plate, candle pot, candle lamp, chandelier,
    sconce, t light glass, t light lantern, candlepot
Home Decor > Candles | candle, t light, tlight, tealight, tea light, night light, birthday candle
Home Decor > Lighting | lamp, lampshade, light, lamp shade, fairy light, torch, nightlight, light bulb, lightbulb,
    paperlantern
Home Decor > Clocks | clock, alarm clock
Home Decor > Mirrors | mirror
Accessories > Keyrings & Phone Charms | keyring, key ring, phone charm, bag charm, mobile phone, phone, key fob,
    keychain, key chain
Home Decor > Signs & Wall Art | sign, wall art, plaque, canvas, wall tidy, wall sticker, poster, chalkboard,
    blackboard, memo board, noticeboard, notice board, number tile, block word, word block, picture, painting,
    print, doorsign, memoboard, wood letter, wooden letter, letter
Home Decor > Doors & Hooks | doormat, door mat, doorstop, door stop, hook, hanger, drawer knob, knob, coat rack,
    door bell, doorbell, key holder, keyholder, door hanger, wall rack, hat stand, rail, drawerknob, coathanger,
    coathook
Home Decor > Decorations | stones, pebbles
Bags > Lunch Bags | lunch bag, cool bag, cooler bag, lunchbag
Bags > Luggage & Wash Bags | luggage, suitcase, wash bag, washbag, toiletry, passport, travel bag, make up bag,
    cosmetic bag, makeup bag, vanity case, holdall, weekend bag, laundry bag
Party & Gift Wrap > Gift Wrap & Bags | wrap, wrapping, gift bag, gift tag, gift box, ribbon, tissue paper,
    wrapping paper, gift tape, parcel tape, bow, gift tin, carrier bag, paper bag
Bags > Handbags & Purses | handbag, purse, clutch, wallet, evening bag, shoulder bag, coin purse, sling bag
Bags > Shopping Bags | jumbo bag, shopper, tote, shopping bag, storage bag, charlotte bag, shop bag, jumbo shopper,
    bag, backpack, rucksack, satchel
Toys & Games > Soft Toys & Dolls | doll, teddy, soft toy, dolly girl, rag doll, doll house, puppet, hand puppet,
    finger puppet, bear, cuddly, babushka set, poodle, lamb
Toys & Games > Games & Puzzles | jigsaw, puzzle, game, domino, dominoes, playing card, snakes, ludo, skittle,
    tic tac toe, noughts, naughts, quoits, hoopla, croquet, bingo, chess, solitaire, pick up sticks, jacks, yo yo,
    rounders, boules, skipping rope, spinning top, marbles, kite, cricket, ball
Toys & Games > Toys | toy, robot, helicopter, glider, windmill, sketchbook toy, car, tractor, racing, bubble,
    whistle, kazoo, harmonica, pop gun, water pistol, ukulele, guitar, drum, bucket and spade, beach spade,
    inflatable, yoyo, asteroid, dinosaur, magic, periscope, kaleidoscope, rubber duck, duck, soldier, cowboy,
    pirate, space invader, musical, tumbling, balancing, spaceboy, play, farm, animal, grow, stunt, wind up,
    wooden train, train, rocket, hammock chair, space cadet, monster, tool set, radio, snake, crawlie, disc,
    modelling clay, colouring set
Stationery & Crafts > Notebooks & Paper | notebook, journal, diary, sketchbook, notepad, note pad, notelet,
    writing set, writing paper, calendar, paper set, exercise book, address book, organiser, planner, note book,
    memo pad, jotter, guest book, book, writing, origami, folder, file, stationery, list, envelope, page
Stationery & Crafts > Pens & Desk | pen, pencil, pencils, eraser, sharpener, ruler, crayon, chalk, stapler,
    paperweight, paper weight, calculator, desk tidy, magnifying, pen pot, pencil case, paper clip, bookend,
    letter rack, letter holder, letter opener, clipboard, felt pen, scissor, highlighter, rubber, document,
    hole punch, p weight, p'weight
Stationery & Crafts > Stickers, Stamps & Tape | sticker, stamp, tape, decal, transfer, patch, glitter, stencil
Stationery & Crafts > Crafts & Sewing | sewing, craft, knitting, felt, felt craft, feltcraft, button, embroidery,
    crochet, kit, loom, yarn, pin cushion, pincushion, cotton reel, thimble, needle, decoupage, tape measure,
    knitted, mosaic, paint set, painting set
Accessories > Necklaces | necklace, pendant, locket, lariat, neckl, necklac, choker, jewellery set
Accessories > Bracelets | bracelet, bangle, charm bracelet, wristband, anklet, braclet
Accessories > Earrings | earring, stud, hoop
Accessories > Rings & Brooches | ring, brooch, charm, cufflink, badge, pin, tiara, crown
Accessories > Hair | hair, hairband, hairclip, hair clip, headband, bobble, scrunchie, comb, hairslide, hair grip,
    alice band, hair slide
Accessories > Scarves, Hats & Umbrellas | scarf, umbrella, parasol, glove, hat, shawl, pashmina, sunglasses, sock,
    slipper, cap, poncho, sarong, belt, shoe, flip flop, rain, rainhat, wrap scarf, throw scarf, fan, tie, t shirt,
    jacket, bandana, sunhat, sombrero, skirt
Kitchen & Dining > Mugs & Cups | mug, cup, saucer, teacup, tea cup, beaker, egg cup, tankard, cup and saucer
Kitchen & Dining > Glasses & Jugs | jug, wine glass, tumbler, goblet, carafe, decanter, shot glass, pitcher,
    champagne, flute, hi ball, cocktail, wine, beer, corkscrew, bottle opener, ice bucket, coaster, glass bottle,
    drinking straw, straw, ice cube, tea glass, drinking glass, glass cup
Kitchen & Dining > Plates & Bowls | plate, bowl, dish, platter, ramekin, cake plate, tray, cutlery, spoon, fork,
    knife, chopstick, dinner set, breakfast set, salad server, serving, toast rack, egg holder, trivet, sauce,
    tureen, napkin ring, cereal, teabag, bread, cheese, cruet, salt, pepper, pot stand, bone china, bon bon, chilli,
    butter, toastrack, fruitbowl, basin
Kitchen & Dining > Table & Kitchen Linen | apron, tablecloth, placemat, place mat, table mat, table runner,
    tea towel, napkin, pot holder, oven glove, kitchen towel, doily, doilies, runner, table cloth, peg bag, duster,
    cutlery holder, teatowel, oven mitt, ironing board cover, bib, overall
Kitchen & Dining > Kitchen Tools | scale, timer, magnet, fridge magnet, kitchen, grater, cheese, chopping board,
    utensil, sieve, colander, thermometer, pan, casserole, egg, eggs, saucepan, peeler, tin opener, washing up,
    cleaning, soap dish, hen, chicken, milk, fridge, lid, bottle, flask, drainer, pot set, cook, squeezer,
    jam making, cooking set
Party & Gift Wrap > Party | bunting, garland, balloon, party, paper plate, paper cup, paper napkin, tissue,
    streamer, paper chain, birthday, candy, pinata, confetti, sparkler, popcorn, piggy, cake, cocktail stick,
    cracker, honeycomb paper, rosette, banner, flag, paper lantern, tissues, matches, chocolate, sweet, sweetie,
    gum, lolly, marshmallow
Garden & Outdoor > Bird & Garden | bird box, birdhouse, bird house, bird feeder, bird table, bird bath, garden,
    watering can, plant, planter, flower pot, flowerpot, herb, wind chime, windchime, wheelbarrow, trellis, gnome,
    seed, trowel, bee, greenhouse, pot plant, spade, fork and trowel, wind spinner, hanging basket, shed,
    grow your own, terrarium, insect, zinc pot, birdfeeder, secateurs, gardening, gardener, fly swat, chime
Garden & Outdoor > Picnic & Camping | picnic, hammock, camping, deckchair, bbq, barbecue, beach, travel, windbreak,
    cool box, folding stool, folding chair, camper, bicycle, bike
Bath & Beauty > Bath | bath, soap, bathroom, towel, flannel, shower, sponge, toothbrush, loo, toilet, bubble bath,
    nail file, manicure, lip, body, massage, bath salt, hand cream, cosmetic, beauty, nail, mirror compact,
    tissue box, wash, foot, ear, potion, lotion, hand, shampoo
Home Decor > Cushions & Throws | cushion, throw, blanket, quilt, pillow, bedspread, rug, cushion cover, bean bag,
    bedding, curtain, mat, fleece, duvet, seat pad, seat, c/cover, eiderdown, carpet, filler pad, kneeling pad
Home Decor > Furniture | table, stool, chair, cabinet, shelf, shelves, chest, bookcase, wardrobe, drawer, bench,
    cupboard, rack, sideboard, trolley, footstool, screen, dresser, armchair, unit, bureau, stand, desk,
    storage unit, pouffe, partition
Home Decor > Boxes & Storage | box, basket, trinket box, jewellery box, jewel box, storage, tin, trunk, jar, bin,
    pot, crate, container, bucket, case, holder, tidy, trinket, trinket tray, jewellery stand, hatbox,
    magazine rack, money bank, bank, money box, laundry, hamper, cube, pail, bath bucket, cosmetics, trough, urn,
    tub
Home Decor > Vases & Flowers | vase, flower, artificial flower, bouquet, rose, lily, tulip, wreath, bloom, foliage,
    orchid, peony, daffodil, hydrangea, blossom, sunflower, poppy, berry, berries, spray, branch, ivy, posy,
    topiary, leaf, leaves, daisy
Home Decor > Decorations | decoration, hanging, ornament, heart, mobile, bell, angel, fairy, dec, star, bird,
    butterfly, dove, cherub, figurine, statue, buddha, ball decoration, feather, chain, curtain beads, bead, string,
    string of, suncatcher, sun catcher, tree, globe, peg, mask, cockerel, rabbit, bunny, cat, dog, frog, owl,
    elephant, fish, deer, horse, cow, sheep, squirrel, mouse, parrot, skull, crystal, dreamcatcher, pom pom, tassel,
    icicle, drop, tile, wall, house, cottage, picture hook, shell, toadstool, mushroom, pear, geisha, canary,
    canopy
Kitchen & Dining > Glasses & Jugs | glass
"""

_WORDS = """
set of in with and the a on for pack box asst assorted assort ass asstd colour colours col colors design designs des
style small large medium mini giant big jumbo tall short round square oval single double triple pair piece pieces size
pink blue red green black white ivory cream brown purple yellow orange silver gold grey turquoise multicolour lilac
natural clear pastel amber aqua mauve navy beige copper teal spot spots spotty polkadot retrospot retro vintage antique
classic stripe stripes striped paisley gingham floral new old dark light bright traditional modern
"""
FILLERS = frozenset(_WORDS.split())


def _pattern(words: str) -> re.Pattern[str]:
    phrases = sorted({phrase.strip() for phrase in words.split(",")}, key=len, reverse=True)
    escaped = (re.escape(phrase).replace(r"\ ", r"[\s-]+") for phrase in phrases)
    return re.compile(rf"(?<![a-z])(?:{'|'.join(escaped)})(?:e?s)?(?![a-z])")


RULES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (path.strip(), _pattern(words))
    for path, _, words in (line.partition("|") for line in _RULES.replace(",\n    ", ", ").strip().splitlines())
)


@lru_cache(maxsize=100_000)
def category(description: str) -> str:
    """The category path of a description, by the rule at the head of this module."""
    text = description.lower().replace("'s", "")
    for path, pattern in RULES:
        if pattern.search(text):
            return path
    return f"Other > {_head_noun(text)}"


def _head_noun(text: str) -> str:
    words = [word for word in re.findall(r"[a-z]{3,}", text) if word not in FILLERS]
    if not words:
        return "Item"
    noun = words[-1]
    return str(noun.removesuffix("s") if not noun.endswith("ss") else noun).capitalize()


def title(description: str) -> str:
    """A description in the case of a title, without stray blanks and full stops: "RED T-LIGHT, S/3" is
    "Red T-Light, S/3"; text that is not in capitals is left as it is."""
    text = " ".join(description.split()).strip(" .,")
    if text != text.upper():
        return text
    return re.sub(r"[A-Z]+(?:'[A-Z]+)?", lambda word: str(word.group()).capitalize(), text)
